"""TED-LIUM 3, legacy distribution: 452 hours of talks, https://www.openslr.org/51.

``legacy/<split>/{sph,stm}``: whole talks, and their segments as NIST STM lines.
Hernandez et al. 2018.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded
from lmu_asr.corpora.splits import OPENSLR, join_splits
from lmu_asr.corpora.text import normalize_english
from lmu_asr.data.manifests import Utterance, from_utterances
from lmu_asr.errors import DataError
from lmu_asr.text_lines import text_lines

SHA256 = "ad1e454d14d1ad550bc2564c462d87c7a7ec83d4dc2b9210f22ab4973b9eccdb"
IGNORED = "ignore_time_segment_in_scoring"


class TedLium3(Downloaded):
    """The splits ``train``, ``dev`` and ``test``, 16 kHz."""

    name = "tedlium3"
    license_note = "TED-LIUM 3: CC BY-NC-ND 3.0, not for commercial use"
    bases: Sequence[str] = OPENSLR

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return the one archive, 51 GB."""
        return [Archive("51/TEDLIUM_release-3.tgz", f"sha256:{SHA256}")]

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the splits that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        root = next((p for p in sorted(source.rglob("legacy")) if p.is_dir()), source)
        return join_splits(config, lambda part: _read(root / part))

    def normalize(self, text: str) -> str:
        """Noises and unknown words dropped, split clitics joined (``it 's``), lower case."""
        text = re.sub(r"\{\w+\}|\[\w+\]|<[\w-]+>", " ", text.lower())
        return normalize_english(re.sub(r" '(?=\w)", "'", text))


def _read(folder: Path) -> Manifests:
    files = sorted((folder / "stm").glob("*.stm"))
    if not files:
        raise DataError(f"{folder}: no stm/*.stm in it")
    return from_utterances((u for stm in files for u in _utterances(stm)), folder.name)


def _utterances(stm: Path) -> Iterator[Utterance]:
    """Yield the segments: ``<file> <channel> <speaker> <start> <end> <label> <words>``."""
    audio = stm.parents[1] / "sph" / f"{stm.stem}.sph"
    for number, line in text_lines(stm):
        fields = line.split(maxsplit=6)
        if not line.strip() or line.startswith(";;") or IGNORED in line:
            continue
        try:
            start, end = float(fields[3]), float(fields[4])
        except (IndexError, ValueError) as error:
            raise DataError(f"{stm}:{number}: not an STM line: {line[:80]}") from error
        text = fields[6] if len(fields) > 6 else ""
        yield Utterance(f"{stm.stem}-{number:04d}", audio, text, fields[2], start, end)


CORPUS = TedLium3()
