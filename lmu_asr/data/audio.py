"""Reading audio through soundfile: one thread-safe reader for every format and every stage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from numpy.typing import NDArray
from scipy.signal import resample_poly

from lmu_asr.errors import DataError


def recording_from_file(path: Path | None, recording_id: str) -> Recording | None:
    """Describe an audio file from its header alone; None when it is missing or unreadable."""
    if path is None:
        return None
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError):
        return None
    return Recording(
        id=recording_id,
        sources=[AudioSource("file", list(range(info.channels)), str(path))],
        sampling_rate=info.samplerate,
        num_samples=info.frames,
        duration=info.frames / info.samplerate,
    )


def read_audio(
    path: str | Path, offset: int = 0, num_samples: int = -1
) -> tuple[NDArray[np.float32], int]:
    """Read samples from a file.

    Args:
        path: audio file of any format that libsndfile reads.
        offset: first sample, at the file's own rate.
        num_samples: samples wanted, at the file's own rate; -1 for all to the end.

    Returns:
        Samples (channels, num_samples) in [-1, 1] and the file's sample rate in hertz.

    Raises:
        DataError: the file is missing, not audio, or ends before ``offset + num_samples``.
    """
    try:
        with soundfile.SoundFile(str(path)) as stream:
            stream.seek(offset)
            samples = stream.read(num_samples, dtype="float32", always_2d=True)
            sample_rate = int(stream.samplerate)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: cannot be read as audio: {error}") from error
    if num_samples >= 0 and len(samples) < num_samples:
        raise DataError(
            f"{path}: cut short: {offset + len(samples)} samples, {offset + num_samples} wanted"
        )
    return np.ascontiguousarray(samples.T), sample_rate


def resample(
    samples: NDArray[np.float32], source_rate: int, target_rate: int
) -> NDArray[np.float32]:
    """Resample (..., num_samples) by polyphase filtering, also by the ratio of a speed factor."""
    ratio = Fraction(target_rate, source_rate)
    if ratio == 1:
        return samples
    resampled = resample_poly(samples, ratio.numerator, ratio.denominator, axis=-1)
    return np.asarray(resampled, dtype=np.float32)
