"""Mini LibriSpeech: five hours to train and two to test, https://www.openslr.org/31."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded
from lmu_asr.corpora.librispeech import read_splits
from lmu_asr.corpora.splits import OPENSLR


class MiniLibriSpeech(Downloaded):
    """The splits ``train-clean-5`` and ``dev-clean-2``, in LibriSpeech layout."""

    name = "mini_librispeech"
    license_note = "Mini LibriSpeech: CC BY 4.0, https://www.openslr.org/31"
    bases: Sequence[str] = OPENSLR

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return both archives, with the publisher's checksums."""
        return [
            Archive("31/dev-clean-2.tar.gz", "md5:6d7ab67ac6a1d2c993d050e16d61080d"),
            Archive("31/train-clean-5.tar.gz", "md5:5df7d4e78065366204ca6845bb08f490"),
        ]

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the splits that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        return read_splits(config, source)


CORPUS = MiniLibriSpeech()
