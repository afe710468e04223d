"""LibriSpeech, and any directory in its layout.

The layout: ``<split>/<speaker>/<chapter>/<utterance>.{flac,wav,mp3,opus,ogg}`` with transcripts in
``<speaker>-<chapter>.trans.txt`` beside the audio, one ``<utterance> <text>`` a line. A split is a
directory by that name. Panayotov et al. 2015, https://www.openslr.org/12.
"""

from __future__ import annotations

import re
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.data.layout import read_layout
from lmu_asr.errors import DataError


class LibriSpeech:
    """LibriSpeech in the user's own copy, named by ``corpus.source``."""

    name = "librispeech"
    license_note = "LibriSpeech: CC BY 4.0, https://www.openslr.org/12"

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Check that ``corpus.source`` is there: this corpus is read where it lies."""
        if not config.source:
            raise DataError(
                "corpus.source is empty: name a directory in LibriSpeech layout with "
                "--set corpus.source=DIR"
            )

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the splits that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        return read_splits(config, source)

    def normalize(self, text: str) -> str:
        """Lower case, apostrophes kept, other punctuation dropped, single spaces."""
        return normalize_english(text)


def normalize_english(text: str) -> str:
    """Lower case, typographic apostrophes made plain, other punctuation dropped, single spaces."""
    text = re.sub(r"[’‘`´]", "'", text.lower())
    text = re.sub(r"[^\w' ]|_", " ", text)
    return " ".join(
        word for word in (w.strip("'") if w == "'" else w for w in text.split()) if word
    )


def read_splits(config: CorpusConfig, source: Path) -> dict[str, Manifests]:
    """Read every split that ``config`` names from its directory under ``source``.

    Raises:
        DataError: ``source`` or a split is missing; the message names the directories found.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such directory (corpus.source)")
    splits = {}
    for split in dict.fromkeys([config.train, config.dev, *config.test]):
        if not (source / split).is_dir():
            found = ", ".join(sorted(p.name for p in source.iterdir() if p.is_dir())) or "none"
            raise DataError(f"{source}: no split '{split}'; directories found: {found}")
        splits[split] = read_layout(source / split)
    return splits


CORPUS = LibriSpeech()
