"""Free Spoken Digit Dataset: six speakers say the ten digits fifty times each, at 8 kHz.

Files are ``<digit>_<speaker>_<number>.wav``. Numbers 0 to 4 test, as published; 5 to 9 are dev.
https://github.com/Jakobovski/free-spoken-digit-dataset
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded
from lmu_asr.corpora.grammar import DIGITS
from lmu_asr.corpora.splits import group
from lmu_asr.data.manifests import Utterance, from_utterances
from lmu_asr.files import files_below

# of "git archive v1.0.10 | gzip -n", which is what the server packs
SHA256 = "feb479fad3a37883c3d21ed7f982281c2dd1c18d5aefd7e8a5d50f58023392aa"


class FreeSpokenDigits(Downloaded):
    """Single digits."""

    name = "fsdd"
    license_note = (
        "Free Spoken Digit Dataset: CC BY-SA 4.0, "
        "https://github.com/Jakobovski/free-spoken-digit-dataset"
    )
    bases: Sequence[str] = (
        "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags",
    )

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return the one archive."""
        return [Archive("v1.0.10.tar.gz", f"sha256:{SHA256}")]

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Return ``train``, ``dev`` and ``test`` (see :class:`lmu_asr.corpora.base.Corpus`)."""
        utterances = []
        for path in sorted(files_below(source, "recordings/*.wav")):
            digit, speaker, _ = path.stem.split("_")
            utterances.append(Utterance(path.stem, path, DIGITS[int(digit)], speaker))
        return group(from_utterances(utterances), lambda s: _split(int(s.id.split("_")[2])))


def _split(number: int) -> str:
    return "test" if number < 5 else "dev" if number < 10 else "train"


CORPUS = FreeSpokenDigits()
