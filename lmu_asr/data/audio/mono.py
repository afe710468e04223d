"""From the channels of a file to the one signal that features are made of: one way for all stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmu_asr.errors import DataError

# Float samples that a codec or a resampler left are little above 1; those of a 16-bit scale reach
# thousands wherever someone speaks.
LARGEST_PEAK, LARGEST_INT16_PEAK = 4.0, 65536.0
INT16_SCALE = np.float32(1.0 / 32768.0)
CANCELLED = 0.01  # range of the mean of channels against the widest of theirs: 40 dB lost
SCALED = "float samples at the scale of int16, divided by 32768"
FIRST_CHANNEL = "channels that cancel when averaged (one is inverted), one of them used"


class SilentAudioError(DataError):
    """Audio whose samples are all the same."""


@dataclass(frozen=True)
class Mono:
    """One signal.

    Attributes:
        samples: (num_samples,), full scale 1.
        repairs: what was done to the file's samples beside averaging, in words.
    """

    samples: NDArray[np.float32]
    repairs: list[str] = field(default_factory=list)


def to_mono(
    samples: NDArray[np.float32], channels: Sequence[int], name: str, path: str | Path
) -> Mono:
    """Average channels of samples (all channels, num_samples).

    Channels of which one is the other inverted would cancel: the first of them with a signal is
    used instead. Samples of more than 4 times full scale are taken for 16-bit values stored as
    float and divided by 32768.

    Args:
        samples: as :func:`lmu_asr.data.audio.reader.read_audio` returns them.
        channels: those to average.
        name: the utterance, for messages.
        path: its file, for messages.

    Raises:
        SilentAudioError: all samples are the same.
        DataError: NaN or infinite samples, or samples of no known scale.
    """
    repairs = []
    chosen = samples[channels[0]][None] if len(channels) == 1 else samples[list(channels)]
    mono = chosen[0] if len(channels) == 1 else chosen.mean(axis=0)
    if not np.isfinite(mono).all():
        bad = int(np.count_nonzero(~np.isfinite(mono)))
        raise DataError(f"{path}: {bad} NaN or infinite samples")
    if len(channels) > 1 and (whole := _if_cancelled(mono, chosen)) is not None:
        mono = whole
        repairs.append(FIRST_CHANNEL)
    low, high = (float(mono.min()), float(mono.max())) if len(mono) else (0.0, 0.0)
    if len(mono) and low == high:
        raise SilentAudioError(
            f"'{name}' is silent: all of its {len(mono)} samples are {low:g}; listen to {path}"
        )
    peak = max(-low, high)
    if peak > LARGEST_INT16_PEAK:
        raise DataError(f"{path}: samples of an unknown scale: up to {peak:g} times full scale")
    if peak > LARGEST_PEAK:
        mono = mono * INT16_SCALE
        repairs.append(SCALED)
    return Mono(np.asarray(mono, dtype=np.float32), repairs)


def _if_cancelled(
    mono: NDArray[np.float32], channels: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """The first channel with a signal, where the mean of the channels has lost it; else None."""
    if not len(mono):
        return None
    ranges = np.ptp(channels, axis=1)  # less work than a variance, and blind to an offset as well
    least = CANCELLED * ranges.max()
    return channels[int(np.argmax(ranges >= least))] if np.ptp(mono) < least else None
