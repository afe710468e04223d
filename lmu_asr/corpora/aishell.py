"""AISHELL-1: 178 hours of read Mandarin, https://www.openslr.org/33. Bu et al. 2017.

The archive holds one archive for each speaker. Each character is a word here, so that the word
error rate is the character error rate that is published for this corpus.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded, unpack
from lmu_asr.corpora.splits import OPENSLR, join_splits
from lmu_asr.data.manifests import Utterance, from_utterances
from lmu_asr.errors import DataError
from lmu_asr.files import files_below
from lmu_asr.text_lines import filled_lines

TRANSCRIPT = "aishell_transcript_v0.8.txt"


class Aishell(Downloaded):
    """The splits ``train``, ``dev`` and ``test``, 16 kHz."""

    name = "aishell"
    language = "zh"
    license_note = "AISHELL-1: Apache 2.0, https://www.openslr.org/33"
    bases: Sequence[str] = OPENSLR

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return the speech; the lexicon of the publisher is not used."""
        return [Archive("33/data_aishell.tgz", "md5:2f494334227864a8a8fec932999db9d8")]

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Fetch, verify and unpack, the speakers' archives too."""
        super().download(config, target, seed)
        for inner in sorted(target.glob("data_aishell/wav/*.tar.gz")):
            unpack(inner, inner.parent)
            inner.unlink()

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the splits that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        transcript = next(iter(sorted(files_below(source, TRANSCRIPT))), None)
        if transcript is None:
            raise DataError(f"{source}: no {TRANSCRIPT} in it or below")
        lines = [line for _, line in filled_lines(transcript)]
        texts = dict(line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
        root = transcript.parents[1] / "wav"
        return join_splits(config, lambda part: _read(root / part, texts))

    def normalize(self, text: str) -> str:
        """Full-width letters made plain, lower case, one space between characters."""
        plain = unicodedata.normalize("NFKC", text).lower()
        return " ".join(c for c in plain if unicodedata.category(c)[0] in "LN")


def _read(folder: Path, texts: dict[str, str]) -> Manifests:
    """Read one split; files without a line in the transcript are not part of the corpus."""
    files = [p for p in sorted(files_below(folder, "*.wav")) if p.stem in texts]
    if not files:
        raise DataError(f"{folder}: no wav file with a transcript")
    utterances = [Utterance(p.stem, p, texts[p.stem], p.parent.name) for p in files]
    return from_utterances(utterances, folder.name)


CORPUS = Aishell()
