"""yesno: sixty recordings of eight Hebrew words, yes or no, https://www.openslr.org/1.

The words are in the file's name: ``0_1_1_0_0_1_1_0.wav``. Even files train and odd ones test, as
in Lhotse; every sixth of the training files is kept for dev.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded
from lmu_asr.corpora.splits import OPENSLR, group
from lmu_asr.data.manifests import Utterance, from_utterances
from lmu_asr.files import files_below

SHA256 = "c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73"
WORDS = {"0": "no", "1": "yes"}


class YesNo(Downloaded):
    """One speaker, 8 kHz."""

    name = "yesno"
    language = "he"
    license_note = "yesno: CC BY 4.0, https://www.openslr.org/1"
    bases: Sequence[str] = OPENSLR

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return the one archive."""
        return [Archive("1/waves_yesno.tar.gz", f"sha256:{SHA256}")]

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Return ``train``, ``dev`` and ``test`` (see :class:`lmu_asr.corpora.base.Corpus`)."""
        files = sorted(p for p in files_below(source, "*.wav") if set(p.stem) <= set("01_"))
        splits = {p.stem: _split(number) for number, p in enumerate(files)}
        utterances = [
            Utterance(p.stem, p, " ".join(WORDS[digit] for digit in p.stem.split("_")))
            for p in files
        ]
        return group(from_utterances(utterances), lambda s: splits[s.id])


def _split(number: int) -> str:
    if number % 2:
        return "test"
    return "dev" if number % 12 == 0 else "train"


CORPUS = YesNo()
