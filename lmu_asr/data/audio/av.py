"""Audio that libsndfile does not know, through FFmpeg (PyAV): m4a, mp4, aac, webm, amr, wma, video.

A file is decoded from its start, whatever part is wanted: only so are the samples of a segment
those of the whole, since seeking in such formats is neither exact nor without a trace. Segments in
their order share one pass. Delay and padding of the encoder are removed as the container says.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lmu_asr.errors import DataError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

# Play lists are not among them: they name other files, and addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,amr,amrnb,amrwb,ogg,asf,mp3,flac,wav,w64,aiff,au,"
    "caf,avi,mpegts,mpeg,flv,ac3,eac3,dts,ape,tta,wv,mpc,mpc8,voc,loas,gsm,nistsphere"
)
WITH_DURATION = ("matroska,webm", "asf")  # in their header; others estimate it by the bit rate
SLACK_SECONDS = 0.5  # headers round, and count the encoder's delay or not
SAID_AT_MOST = 5  # files with more than one track, a process

_local = threading.local()
_said = itertools.count(1)


def describe(path: str | Path) -> tuple[int, int, int]:
    """Decode a file and return samples of each channel, rate in hertz, and channels.

    Raises:
        DataError: not audio, without an audio track or a sample, or the decoder fails.
        OSError: the file cannot be read.
    """
    count = rate = channels = 0
    for frame, length in _frames(path, say_tracks=True):
        rate, channels = frame.sample_rate, len(frame.layout.channels)
        count += length
    if not count:
        raise DataError(f"{path}: no samples in it")
    return count, rate, channels


def read(path: str | Path, offset: int, num_samples: int) -> tuple[NDArray[np.float32], int]:
    """Read samples (channels, num_samples) from ``offset``, -1 for all; fewer where the file ends.

    A part that follows the last one that this thread read goes on decoding there.

    Raises:
        DataError, OSError: as :func:`describe`.
    """
    state = Path(path).stat()
    # with the process: after a fork both would move the place in one open file
    key = (os.getpid(), os.fspath(path), state.st_mtime_ns, state.st_size)
    track = getattr(_local, "track", None)
    _local.track = None  # one that fails is not kept
    if track is None or track.key != key or track.position > offset:
        track = _Track(path, key)
    samples = track.read(offset, num_samples)
    _local.track = None if track.is_done else track
    return samples, track.rate


@atexit.register
def _forget() -> None:
    """Close the file that the main thread keeps while PyAV is still there to do it."""
    _local.track = None


class _Track:
    """An open file, read forwards; ``position`` is the first sample that can still be had."""

    def __init__(self, path: str | Path, key: tuple[Any, ...]) -> None:
        self.key = key
        self.position = 0
        self.is_done = False
        self._frames = _frames(path)
        self._rest, self.rate = np.empty((1, 0), np.float32), 0
        self._advance()

    def read(self, offset: int, num_samples: int) -> NDArray[np.float32]:
        """Return samples (channels, num_samples), fewer where the file ends; -1: all that follow."""
        channels = len(self._rest)
        if num_samples < 0:
            return np.concatenate([self._rest[:, :0], *self._parts(offset, None)], axis=1)
        found = np.empty((channels, num_samples), np.float32)
        filled = 0
        for part in self._parts(offset, offset + num_samples):
            found[:, filled : filled + part.shape[1]] = part
            filled += part.shape[1]
        return found[:, :filled]

    def _parts(self, start: int, end: int | None) -> Iterator[NDArray[np.float32]]:
        """Yield the samples from ``start`` to ``end`` block by block, and keep what follows."""
        while end is None or self.position < end:
            if not self._rest.shape[1] and not self._advance():
                return
            is_wanted = self.position >= start
            until = end if is_wanted else start
            length = self._rest.shape[1] if until is None else until - self.position
            part, self._rest = self._rest[:, :length], self._rest[:, length:]
            self.position += part.shape[1]
            if is_wanted:
                yield part

    def _advance(self) -> bool:
        """Decode the next frame, if there is one."""
        frame, length = next(self._frames, (None, 0))
        if frame is None:
            self.is_done = True
        else:
            self._rest, self.rate = _as_float(frame)[:, :length], frame.sample_rate
        return frame is not None


def _frames(path: str | Path, say_tracks: bool = False) -> Iterator[tuple[AudioFrame, int]]:
    """Yield the frames of the first audio track, and how many samples of each count."""
    import av  # here, since few corpora need it

    # an open file, not its name: FFmpeg would take "http:..." in a name for an address
    with open(path, "rb") as raw:
        try:
            options = {"format_whitelist": FORMATS}
            with av.open(raw, "r", options=options, metadata_errors="replace") as container:
                _refuse_silent_film(container, path, say_tracks)
                yield from _decoded(container, path)
        except av.FFmpegError as error:
            reason = "unknown format" if isinstance(error, av.ArgumentError) else error.strerror
            raise DataError(f"{path}: not readable as audio: {reason}") from error


def _refuse_silent_film(container: InputContainer, path: str | Path, say_tracks: bool) -> None:
    tracks = len(container.streams.audio)
    if not tracks:
        found = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise DataError(f"{path}: not readable as audio: no audio track in it (found: {found})")
    if tracks > 1 and say_tracks and (number := next(_said)) <= SAID_AT_MOST:
        rest = "; no further files are named" if number == SAID_AT_MOST else ""
        logging.warning("%s: %d audio tracks, the first is read%s", path, tracks, rest)


def _decoded(container: InputContainer, path: str | Path) -> Iterator[tuple[AudioFrame, int]]:
    import av

    held: AudioFrame | None = None  # the padding of the encoder is in the last one
    count = 0
    try:
        for frame in container.decode(container.streams.audio[0]):
            if held is not None:
                _refuse_change(held, frame, path, count)
                yield held, held.samples
            held = frame
            count += frame.samples
    except av.FFmpegError as error:
        raise DataError(
            f"{path}: cut short or damaged: the decoder of {_codec(container)} fails after {count} "
            f"samples: {error.strerror}"
        ) from error
    if held is not None:
        excess = count - _promised(container, path, count, held.sample_rate)
        yield held, held.samples - excess if 0 < excess < held.samples else held.samples


def _codec(container: InputContainer) -> str:
    context = container.streams.audio[0].codec_context
    return f"{context.name if context else 'an unknown codec'} in {container.format.name}"


def _refuse_change(before: AudioFrame, after: AudioFrame, path: str | Path, count: int) -> None:
    (first, rate), (then, new_rate) = (
        (len(frame.layout.channels), frame.sample_rate) for frame in (before, after)
    )
    if (first, rate) != (then, new_rate):
        raise DataError(
            f"{path}: not readable as audio: {first} channels at {rate} Hz become {then} at "
            f"{new_rate} Hz after {count} samples; convert it first"
        )


def _promised(container: InputContainer, path: str | Path, count: int, rate: int) -> int:
    """Samples that the container says there are, ``count`` where it does not say.

    Raises:
        DataError: there are clearly fewer.
    """
    import av

    stream = container.streams.audio[0]
    seconds = 0.0
    is_mp4 = "mp4" in container.format.name
    if is_mp4 and stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.format.name in WITH_DURATION and len(container.streams) == 1:
        seconds = (container.duration or 0) / av.time_base
    promised = round(seconds * rate)
    if count < promised - SLACK_SECONDS * rate:
        raise DataError(
            f"{path}: cut short: ends after {count} samples, its header says about {promised}"
        )
    # only an MP4's edit list says to the sample what is padding
    return promised if promised and is_mp4 else count


def _as_float(frame: AudioFrame) -> NDArray[np.float32]:
    """Samples (channels, n) at full scale 1, as libsndfile scales them."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    # samples of 8 bits are unsigned
    middle = 128.0 if samples.dtype == np.uint8 else 0.0
    full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return ((samples - np.float32(middle)) / np.float32(full_scale)).astype(np.float32)
