"""Reading audio through soundfile: one thread-safe reader for every format and every stage."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from numpy.typing import NDArray
from scipy.signal import resample_poly

from lmu_asr.errors import DataError

STREAMED_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # a wav written to a pipe does not know its size
OGG_END_OF_STREAM, OGG_HEADER_BYTES = 0x04, 27


def recording_from_file(path: Path, recording_id: str) -> Recording:
    """Describe an audio file from its header alone.

    Raises:
        DataError: the file is missing, empty, not audio, or shorter than its header says.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: empty file")
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: not readable as audio: {error}") from error
    if info.frames <= 0 or info.samplerate <= 0:
        raise DataError(f"{path}: no samples in it")
    _refuse_cut_short(path)
    return Recording(
        id=recording_id,
        sources=[AudioSource("file", list(range(info.channels)), str(path))],
        sampling_rate=info.samplerate,
        num_samples=info.frames,
        duration=info.frames / info.samplerate,
    )


def _refuse_cut_short(path: Path) -> None:
    """Find what libsndfile passes over in silence: a wav or Ogg file that ends too early."""
    with open(path, "rb") as stream:
        start = stream.read(4)
        size = path.stat().st_size
        if start == b"RIFF":
            wanted = _wav_size(stream.read(4096))
            if wanted > size:
                raise DataError(f"{path}: cut short: {size} bytes, its header says {wanted}")
        elif start == b"OggS":
            stream.seek(max(0, size - 65536))
            tail = stream.read()
            if not _is_last_page(tail[max(0, tail.rfind(b"OggS")) :]):
                raise DataError(f"{path}: cut short: its last page is missing or not whole")


def _is_last_page(page: bytes) -> bool:
    """Whether an Ogg page (RFC 3533) is whole and says that the stream ends with it."""
    if len(page) < OGG_HEADER_BYTES or not page[5] & OGG_END_OF_STREAM:
        return False
    segments = page[OGG_HEADER_BYTES : OGG_HEADER_BYTES + page[26]]
    return len(segments) == page[26] and len(page) >= OGG_HEADER_BYTES + page[26] + sum(segments)


def _wav_size(head: bytes) -> int:
    """Bytes that a wav file must have, from its first chunks after ``RIFF``; 0 if not known."""
    position = 8  # the size of the whole, then WAVE
    while position + 8 <= len(head):
        name, size = struct.unpack("<4sI", head[position : position + 8])
        if name == b"data":
            return 0 if size in STREAMED_SIZES else 4 + position + 8 + size
        position += 8 + size + size % 2
    return 0


def read_audio(
    path: str | Path, offset: int = 0, num_samples: int = -1
) -> tuple[NDArray[np.float32], int]:
    """Read samples from a file.

    Args:
        path: audio file of any format that libsndfile reads.
        offset: first sample, at the file's own rate.
        num_samples: samples wanted, at the file's own rate; -1 for all to the end.

    Returns:
        Samples (channels, num_samples), full scale 1, and the file's sample rate in hertz.

    Raises:
        DataError: the file is missing, not audio, or ends before ``offset + num_samples``.
    """
    try:
        with soundfile.SoundFile(str(path)) as stream:
            if offset:
                stream.seek(offset)
            samples = stream.read(num_samples, dtype="float32", always_2d=True)
            sample_rate = int(stream.samplerate)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: not readable as audio: {error}") from error
    if num_samples >= 0 and len(samples) < num_samples:
        raise DataError(
            f"{path}: cut short: ends after {offset + len(samples)} samples, "
            f"its header says {offset + num_samples} or more"
        )
    return np.ascontiguousarray(samples.T), sample_rate


def resample(
    samples: NDArray[np.float32], source_rate: int, target_rate: int
) -> NDArray[np.float32]:
    """Resample (..., num_samples) by polyphase filtering; rates in hertz, or their ratio."""
    ratio = Fraction(target_rate, source_rate)
    if ratio == 1:
        return samples
    resampled = resample_poly(samples, ratio.numerator, ratio.denominator, axis=-1)
    return np.asarray(resampled, dtype=np.float32)
