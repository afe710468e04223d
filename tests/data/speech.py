"""Tiny audio and data directories that the tests make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.data.audio.reader import recording_from_file
from lmu_asr.data.manifests import Manifests

RATE = 16000


def noise(seconds: float, seed: int = 0, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """Noise with a level that rises and falls, (num_samples, channels) float64."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((round(seconds * rate), channels))
    envelope = 0.1 + np.abs(np.sin(np.arange(len(samples)) / 900.0))
    return 0.1 * samples * envelope[:, None]


def write_audio(path: Path, seconds: float = 0.5, seed: int = 0, **kwargs: int) -> Path:
    """Write noise in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = kwargs.get("rate", RATE)
    samples = noise(seconds, seed, kwargs.get("channels", 1), rate)
    if path.suffix == ".opus":
        soundfile.write(path, samples, rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, samples, rate)
    return path


def manifests(paths: dict[str, Path], texts: dict[str, str] | None = None) -> Manifests:
    """One whole-file utterance for each audio file."""
    recordings = [recording_from_file(path, name) for name, path in paths.items()]
    supervisions = [
        SupervisionSegment(
            r.id,
            r.id,
            0.0,
            r.duration,
            channel=r.channel_ids if r.num_channels > 1 else 0,
            text=(texts or {}).get(r.id, "one two"),
        )
        for r in recordings
    ]
    return Manifests(
        RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions)
    )


def tree_bytes(root: Path) -> dict[str, bytes]:
    """All files below a directory by relative name."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
