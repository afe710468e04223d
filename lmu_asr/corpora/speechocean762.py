"""speechocean762: 5,000 English sentences of 250 Mandarin speakers, https://www.openslr.org/101.

Kaldi data directories ``train`` and ``test``; a tenth of the training speakers is dev.
Zhang et al. 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded
from lmu_asr.corpora.own import split_manifests
from lmu_asr.corpora.splits import OPENSLR
from lmu_asr.data.importing.kaldi import read_kaldi
from lmu_asr.errors import DataError
from lmu_asr.files import files_below


class SpeechOcean762(Downloaded):
    """The splits ``train``, ``dev`` and ``test``, 16 kHz."""

    name = "speechocean762"
    license_note = "speechocean762: CC BY 4.0, https://www.openslr.org/101"
    bases: Sequence[str] = OPENSLR

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return the one archive; its publisher gives no checksum."""
        return [Archive("101/speechocean762.tar.gz")]

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Return ``train``, ``dev`` and ``test`` (see :class:`lmu_asr.corpora.base.Corpus`)."""
        scp = next(iter(sorted(files_below(source, "train/wav.scp"))), None)
        if scp is None:
            raise DataError(f"{source}: no train/wav.scp in it or below")
        root = scp.parents[1]
        splits = split_manifests(read_kaldi(root / "train", root), config, ["dev"])
        return {**splits, "test": read_kaldi(root / "test", root)}


CORPUS = SpeechOcean762()
