"""LibriSpeech, and any directory in its layout (see :mod:`lmu_asr.data.importing.layout`).

A split is a directory by that name. Panayotov et al. 2015, https://www.openslr.org/12.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded
from lmu_asr.corpora.splits import OPENSLR, join_splits, split_parts
from lmu_asr.data.importing.layout import read_layout
from lmu_asr.errors import DataError

DIGESTS = {  # sha256
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}
ALIASES = {
    "train-460": "train-clean-100+train-clean-360",
    "train-960": "train-clean-100+train-clean-360+train-other-500",
}


class LibriSpeech(Downloaded):
    """LibriSpeech; with ``corpus.source``, any directory in its layout."""

    name = "librispeech"
    license_note = "LibriSpeech: CC BY 4.0, https://www.openslr.org/12"
    bases: Sequence[str] = OPENSLR

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return the archives of the splits."""
        parts = split_parts(config, ALIASES)
        unknown = [part for part in parts if part not in DIGESTS]
        if unknown:
            raise DataError(
                f"LibriSpeech has no part '{unknown[0]}', but {', '.join([*DIGESTS, *ALIASES])}; "
                "your own directory is named with --set corpus.source=DIR"
            )
        return [Archive(f"12/{part}.tar.gz", f"sha256:{DIGESTS[part]}") for part in parts]

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the splits that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        return read_splits(config, source)


def read_splits(config: CorpusConfig, source: Path) -> dict[str, Manifests]:
    """Read every split that ``config`` names from its directory under ``source``.

    Raises:
        DataError: ``source`` or a split is missing; the message names the directories found.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such directory (corpus.source)")
    # every archive of OpenSLR 12 unpacks below this name
    inner = source / "LibriSpeech"
    root = inner if inner.is_dir() else source
    return join_splits(config, lambda part: read_layout(_directory(root, part)), ALIASES)


def _directory(root: Path, part: str) -> Path:
    if (root / part).is_dir():
        return root / part
    found = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "none"
    raise DataError(f"{root}: no split '{part}'; directories found: {found}")


CORPUS = LibriSpeech()
