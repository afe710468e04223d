"""Lhotse Shar that the tests write, with Lhotse's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lhotse import MonoCut, SupervisionSegment
from lhotse.features.base import Features
from lhotse.shar import SharWriter

BINS = 8
WORDS = ("ab", "ba", "aab", "b")


def write_shar(
    folder: Path, count: int = 60, shard_size: int = 7, field: str = "lilcom", seed: int = 0
) -> dict[str, np.ndarray]:
    """Write ``count`` utterances of 0.3 to 1.5 s; returns their features by id."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    stored = {}
    with SharWriter(folder, {"features": field}, shard_size=shard_size) as writer:
        for number in range(count):
            name, frames = f"utt.{number:03d}", int(rng.integers(30, 150))
            words = " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), 2))
            stored[name] = rng.normal(size=(frames, BINS)).astype(np.float32)
            writer.write(_cut(folder.parent, name, words, stored[name]))
    return stored


def _cut(folder: Path, name: str, words: str, features: np.ndarray) -> MonoCut:
    seconds = len(features) / 100
    path = folder / "npy" / name[:2] / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, features)
    manifest = Features(
        *("kaldi-fbank", len(features), BINS, 0.01, 16000, 0.0, seconds, "numpy_files"),
        storage_path=str(folder / "npy"),
        storage_key=f"{name[:2]}/{name}.npy",
        channels=0,
    )
    supervision = SupervisionSegment(name, name, 0.0, seconds, text=words)
    return MonoCut(name, 0.0, seconds, 0, [supervision], manifest)
