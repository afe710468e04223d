"""Mini LibriSpeech: five hours to train and two to test, https://www.openslr.org/31.

Published results are those of ``dev-clean-2``, which is therefore the test set; dev is a tenth of the
speakers of ``train-clean-5``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded
from lmu_asr.corpora.librispeech import read_splits
from lmu_asr.corpora.own import split_manifests
from lmu_asr.corpora.splits import OPENSLR

TRAIN, TEST = "train-clean-5", "dev-clean-2"


class MiniLibriSpeech(Downloaded):
    """The splits ``train``, ``dev`` and ``dev-clean-2``, in LibriSpeech layout."""

    name = "mini_librispeech"
    license_note = "Mini LibriSpeech: CC BY 4.0, https://www.openslr.org/31"
    bases: Sequence[str] = OPENSLR

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return both archives, with the publisher's checksums."""
        return [
            Archive(f"31/{TEST}.tar.gz", "md5:6d7ab67ac6a1d2c993d050e16d61080d"),
            Archive(f"31/{TRAIN}.tar.gz", "md5:5df7d4e78065366204ca6845bb08f490"),
        ]

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read both parts and cut dev off (see :class:`lmu_asr.corpora.base.Corpus`)."""
        parts = read_splits(replace(config, train=TRAIN, dev=TEST, test=[TEST]), source)
        return {**split_manifests(parts[TRAIN], config, [config.dev]), TEST: parts[TEST]}


CORPUS = MiniLibriSpeech()
