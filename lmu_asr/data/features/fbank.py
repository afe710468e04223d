"""Kaldi-compatible log-mel filter banks: three implementations behind one seam.

Shapes: T frames, F mel bins.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lmu_asr.config import FeaturesConfig
from lmu_asr.errors import ConfigError

ENERGY_FLOOR = 1.1920929e-07  # Kaldi's: the smallest step of float32 at 1
LOW_HZ, HIGH_HZ = 20.0, -400.0  # as lhotse and icefall: the last filter ends 400 Hz below Nyquist
Features = NDArray[np.float32]


class Extractor(Protocol):
    """Turns samples into log-mel filter-bank features."""

    def __call__(self, samples: NDArray[np.float32]) -> Features:
        """Map samples (num_samples,), full scale 1, to features (T, F)."""


def get_extractor(config: FeaturesConfig) -> Extractor:
    """Return the extractor that ``features.backend`` names; all of them agree to 1e-3.

    Raises:
        ConfigError: the backend is not installed; the message says how to have it.
    """
    return BACKENDS[config.backend](config)


def _lhotse(config: FeaturesConfig) -> Extractor:
    from lhotse import Fbank, FbankConfig

    fbank = Fbank(
        FbankConfig(
            sampling_rate=config.sample_rate,
            frame_length=config.frame_length_ms / 1000.0,
            frame_shift=config.frame_shift_ms / 1000.0,
            dither=config.dither,
            num_filters=config.num_mel_bins,
            energy_floor=ENERGY_FLOOR,
            low_freq=LOW_HZ,
            high_freq=HIGH_HZ,
        )
    )

    def extract(samples: NDArray[np.float32]) -> Features:
        features = fbank.extract(samples, config.sample_rate)
        return np.maximum(np.asarray(features, dtype=np.float32), np.float32(np.log(ENERGY_FLOOR)))

    return extract


def _kaldifeat(config: FeaturesConfig) -> Extractor:
    kaldifeat = _import("kaldifeat", "build it with utils/setup.sh --with-kaldifeat")
    options = kaldifeat.FbankOptions()
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.frame_length_ms = config.frame_length_ms
    options.frame_opts.frame_shift_ms = config.frame_shift_ms
    options.frame_opts.dither = config.dither
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = config.num_mel_bins
    options.mel_opts.low_freq = LOW_HZ
    options.mel_opts.high_freq = HIGH_HZ
    fbank = kaldifeat.Fbank(options)

    def extract(samples: NDArray[np.float32]) -> Features:
        return np.asarray(fbank(torch.from_numpy(samples)).numpy(), dtype=np.float32)

    return extract


def _torchaudio(config: FeaturesConfig) -> Extractor:
    kaldi = _import(
        "torchaudio.compliance.kaldi", "install the torchaudio of the installed torch's CUDA build"
    )

    def extract(samples: NDArray[np.float32]) -> Features:
        features = kaldi.fbank(
            torch.from_numpy(samples)[None],
            num_mel_bins=config.num_mel_bins,
            sample_frequency=float(config.sample_rate),
            frame_length=config.frame_length_ms,
            frame_shift=config.frame_shift_ms,
            dither=config.dither,
            snip_edges=False,
            energy_floor=0.0,
            low_freq=LOW_HZ,
            high_freq=HIGH_HZ,
        )
        return np.asarray(features.numpy(), dtype=np.float32)

    return extract


def _import(module: str, remedy: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a CUDA build beside a CPU torch
        name = module.split(".")[0]
        raise ConfigError(
            f"features.backend={name}: {name} is not usable here ({error}): {remedy}, "
            "or take features.backend=lhotse, which gives the same features"
        ) from error


BACKENDS: dict[str, Callable[[FeaturesConfig], Extractor]] = {
    "lhotse": _lhotse,
    "kaldifeat": _kaldifeat,
    "torchaudio": _torchaudio,
}


def frame_count(num_samples: int, config: FeaturesConfig) -> int:
    """Frames of ``num_samples`` samples without snipped edges, as Kaldi and Lhotse count them."""
    shift = round(config.sample_rate * config.frame_shift_ms / 1000.0)
    # Kaldi's rounding: half a shift goes up
    return (num_samples + shift // 2) // shift
