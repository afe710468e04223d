"""Reading audio: one thread-safe reader for every format and every stage.

libsndfile reads what it knows; FFmpeg, through PyAV, reads the rest, and streams whose header has
no length.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from lhotse.utils import fastcopy
from numpy.typing import NDArray
from scipy.signal import resample_poly

from lmu_asr.data.audio import av as av_audio
from lmu_asr.data.audio.mp3_parts import Unsized, Untagged, tag_of_first_part
from lmu_asr.data.audio.sizes import is_streamed_rf64, refuse_cut_short
from lmu_asr.errors import DataError

# what counts as audio beside transcripts, in any case; of files with one stem, the first kind
AUDIO_SUFFIXES = (
    *(".flac", ".wav", ".mp3", ".opus", ".ogg", ".sph", ".oga", ".w64", ".rf64", ".aif", ".aiff"),
    *(".au", ".caf", ".m4a", ".aac", ".mka", ".wma", ".amr", ".webm", ".mp4", ".3gp", ".mkv"),
    *(".mov", ".avi"),
)
EXACT_SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".sph")  # whose headers do not estimate
MOST_PER_BYTE = 8192  # samples; FLAC of silence has 4700 a byte, all else fewer
LEAST_RATE, LARGEST_RATE = 4000, 768000  # hertz, of speech and of recorders
BLOCK = 1 << 20  # samples passed over at once
UNKNOWN_LENGTH = 1 << 62  # libsndfile gives 2^63 - 1 for FLAC of a pipe


def is_audio(path: str | Path) -> bool:
    """Whether a file's name ends as audio does, in small or capital letters."""
    return Path(path).suffix.lower() in AUDIO_SUFFIXES


def recording_from_file(path: Path, recording_id: str) -> Recording:
    """Describe an audio file by its header.

    Where a header has no length or only an estimate, the length is counted: frame headers of an
    MP3 without Xing, Info or VBRI header are read, other formats are decoded.

    Raises:
        DataError: the file is missing, empty, not audio, or shorter than its header says.
    """
    _refuse_unreadable(path)
    try:
        with _libsndfile(path, -1) as stream:
            if stream is None:
                frames, rate, channels = av_audio.describe(path)
            else:
                frames, rate, channels = stream.frames, stream.samplerate, stream.channels
        _refuse_rate(path, rate)
        _refuse_impossible(path, frames)
        refuse_cut_short(path, reads_chains=stream is None)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: not readable as audio: {error}") from error
    return Recording(
        id=recording_id,
        sources=[AudioSource("file", list(range(channels)), str(path))],
        sampling_rate=rate,
        num_samples=frames,
        duration=frames / rate,
    )


def with_counted_length(recording: Recording) -> Recording:
    """Return a recording that another tool described, with as many samples as are decoded.

    Tools disagree on the length of compressed audio: they take an estimate, or the encoder's delay.

    Raises:
        DataError: as :func:`recording_from_file`.
    """
    path = Path(recording.sources[0].source)
    _refuse_rate(path, recording.sampling_rate)
    if path.suffix.lower() in EXACT_SUFFIXES:
        try:
            refuse_cut_short(path)
        except OSError as error:
            raise DataError(f"{path}: not readable as audio: {error}") from error
        return recording
    found = recording_from_file(path, recording.id)
    return fastcopy(recording, num_samples=found.num_samples, duration=found.duration)


def _refuse_rate(path: str | Path, rate: int) -> None:
    """Refuse a rate that no speech has: resampling from 1 Hz would make gigabytes of a small file."""
    if not LEAST_RATE <= rate <= LARGEST_RATE:
        raise DataError(
            f"{path}: not readable as audio: a sample rate of {rate} Hz, want {LEAST_RATE} to "
            f"{LARGEST_RATE} Hz: correct its header"
        )


def _refuse_impossible(path: Path, frames: int) -> None:
    size = path.stat().st_size
    if frames > MOST_PER_BYTE * size:
        raise DataError(
            f"{path}: cut short or damaged: its header says {frames} samples, "
            f"more than {size} bytes can hold"
        )


def _refuse_unreadable(path: Path) -> None:
    try:
        if not path.is_file():
            is_there = path.exists()
            raise DataError(f"{path}: {'not a regular file' if is_there else 'no such file'}")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty file")
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise DataError(f"{str(path)!r}: no such file: {error}") from error


@contextlib.contextmanager
def _libsndfile(path: str | Path, end: int) -> Iterator[soundfile.SoundFile | None]:
    """Open a file of which samples up to ``end`` are wanted, -1 for all; None: FFmpeg must read it.

    Raises:
        DataError: a file without any header.
    """
    if Path(path).suffix.lower() == ".raw":
        raise DataError(
            f"{path}: not readable as audio: .raw has no header that says rate and sample format; "
            "convert it, for example: sox -t raw -r 16000 -e signed -b 16 -c 1 a.raw a.wav"
        )
    try:
        # as bytes, since soundfile refuses names that are not UTF-8
        stream = soundfile.SoundFile(os.fsencode(path))
    except soundfile.SoundFileError:
        stream = None
    with stream or contextlib.nullcontext():
        is_mp3 = stream is not None and stream.format == "MP3"
        if is_streamed_rf64(path):
            with open(path, "rb", 0) as raw, soundfile.SoundFile(_AsRiff(raw)) as riff:
                yield riff
        elif stream is None or _is_for_ffmpeg(stream, is_mp3):
            yield None
        elif is_mp3 and (tag := tag_of_first_part(path)):
            with open(path, "rb", 0) as raw, soundfile.SoundFile(_untagged(raw, tag)) as parts:
                yield parts
        elif is_mp3 and not 0 <= end <= stream.frames:
            # libsndfile reads no further than the length that it estimates
            with open(path, "rb", 0) as raw, soundfile.SoundFile(Unsized(raw)) as counted:
                yield counted
        else:
            yield stream


def _is_for_ffmpeg(stream: soundfile.SoundFile, is_mp3: bool) -> bool:
    """Whether libsndfile opens a file, but does not know its length."""
    if not 0 < stream.frames < UNKNOWN_LENGTH or stream.samplerate <= 0:
        return True
    # of MP3 in WAV it takes an estimate for the length
    return not is_mp3 and stream.subtype.startswith("MPEG_LAYER")


def _untagged(raw: io.FileIO, tag_at: int) -> Untagged:
    hidden = Untagged(raw)
    hidden.tag_at = tag_at
    return hidden


class _AsRiff(io.BufferedReader):
    """An RF64 file without sizes as a RIFF file without sizes, which libsndfile reads to its end."""

    def readinto(self, buffer: Any) -> int:
        """Read, and name the first chunk RIFF."""
        at = self.tell()
        count = super().readinto(buffer)
        if at == 0 and count >= 4:
            buffer[:4] = b"RIFF"
        return count


def read_audio(
    path: str | Path, offset: int = 0, num_samples: int = -1
) -> tuple[NDArray[np.float32], int]:
    """Read samples from a file.

    Args:
        path: audio or video file of any format that libsndfile or FFmpeg reads; of several audio
            tracks, the first.
        offset: first sample, at the file's own rate.
        num_samples: samples wanted, at the file's own rate; -1 for all to the end.

    Returns:
        Samples (channels, num_samples), full scale 1, and the file's sample rate in hertz.

    Raises:
        DataError: the file is missing, not audio, or ends before ``offset + num_samples``.
    """
    end = -1 if num_samples < 0 else offset + num_samples
    try:
        with _libsndfile(path, end) as stream:
            if stream is None:
                samples, sample_rate = av_audio.read(path, offset, num_samples)
            else:
                samples = _read(stream, offset, num_samples).T
                sample_rate = int(stream.samplerate)
        _refuse_rate(path, sample_rate)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: not readable as audio: {error}") from error
    except MemoryError as error:
        raise DataError(f"{path}: not enough memory for {num_samples} samples: cut it") from error
    if samples.shape[1] < num_samples:
        raise DataError(
            f"{path}: cut short: ends after {offset + samples.shape[1]} samples, "
            f"its header says {end} or more"
        )
    return np.ascontiguousarray(samples), sample_rate


def _read(stream: soundfile.SoundFile, offset: int, num_samples: int) -> NDArray[np.float32]:
    """Samples (num_samples, channels) of an open file; what has no index is read from its start."""
    if stream.seekable():
        if offset:
            stream.seek(offset)
        return np.asarray(stream.read(num_samples, dtype="float32", always_2d=True))
    for start in range(0, offset, BLOCK):
        stream.read(min(BLOCK, offset - start), dtype="float32")
    wanted = num_samples if num_samples >= 0 else max(0, stream.frames - offset)
    return np.asarray(stream.read(wanted, dtype="float32", always_2d=True))


def resample(
    samples: NDArray[np.float32], source_rate: int, target_rate: int
) -> NDArray[np.float32]:
    """Resample (..., num_samples) by polyphase filtering; rates in hertz, or their ratio."""
    ratio = Fraction(target_rate, source_rate)
    if ratio == 1:
        return samples
    resampled = resample_poly(samples, ratio.numerator, ratio.denominator, axis=-1)
    return np.asarray(resampled, dtype=np.float32)
