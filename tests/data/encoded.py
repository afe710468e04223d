"""Audio and video in the formats of phones, browsers and recorders, encoded with PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def encode(
    path: Path,
    tracks: Sequence[np.ndarray],
    rate: int,
    codec: str,
    bit_rate: int = 0,
    video: bool = False,
    codec_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Write tracks, each (channels, num_samples), as the name's suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        streams = [
            container.add_stream(codec, rate=rate, options=codec_options or {}) for _ in tracks
        ]
        film_codec = "mpeg4" if path.suffix == ".mp4" else "libvpx"
        film = container.add_stream(film_codec, rate=5) if video else None
        for stream, samples in zip(streams, tracks, strict=True):
            stream.layout = {1: "mono", 2: "stereo"}[len(samples)]
            if bit_rate:
                stream.bit_rate = bit_rate
        if film is not None:
            film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
        for stream, samples in zip(streams, tracks, strict=True):
            for frame in _frames(stream, samples):
                container.mux(stream.encode(frame))
        if film is not None:
            picture = np.zeros((32, 32, 3), np.uint8)
            for _ in range(5):
                container.mux(film.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(film.encode(None))
    return path


def _frames(stream: av.AudioStream, samples: np.ndarray) -> list[av.AudioFrame | None]:
    """Cut samples into frames of the encoder's size and sample format."""
    context, layout = stream.codec_context, stream.layout.name
    kind = context.codec.audio_formats[0].name
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), "fltp", layout)
    whole.sample_rate, whole.pts, whole.time_base = stream.rate, 0, Fraction(1, stream.rate)
    fifo = av.AudioFifo()
    resampler = av.AudioResampler(kind, layout, stream.rate)
    for frame in (*resampler.resample(whole), *resampler.resample(None)):
        fifo.write(frame)
    found: list[av.AudioFrame | None] = []
    while frame := fifo.read(context.frame_size or 1024) or fifo.read():
        found.append(frame)
    return [*found, None]
