"""What every corpus offers: a download, manifests per split, and its text normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lmu_asr.config import CorpusConfig
from lmu_asr.data.manifests import Manifests

__all__ = ["Corpus", "Manifests"]


class Corpus(Protocol):
    """One corpus, one module of ``lmu_asr.corpora`` that holds it as ``CORPUS``.

    Attributes:
        name: the module's.
        language: ISO 639-1 code; empty where the data decide.
        license_note: name and licence, said before anything is fetched and under every table.
    """

    name: str
    language: str
    license_note: str

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Fetch or make the corpus in ``target``; a second call resumes and verifies.

        Args:
            config: mirror, size and speakers where they apply.
            target: directory that receives the corpus.
            seed: the recipe's seed, for corpora that are made.

        Raises:
            DataError: the corpus cannot be had; the message says what to do.
        """

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the corpus in ``source`` and return the manifests of each split by name.

        Raises:
            DataError: a split that ``config`` names is missing or unreadable.
        """

    def normalize(self, text: str) -> str:
        """Return ``text`` as it is trained on and scored, where ``corpus.text`` names no rule."""
