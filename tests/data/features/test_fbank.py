"""Filter banks against an independent float64 implementation of Kaldi's definition."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.features.fbank import BACKENDS, get_extractor
from lmu_asr.errors import ConfigError
from tests.data.speech import noise

EPSILON = np.finfo(np.float32).eps


def reference_fbank(samples: np.ndarray, rate: int, bins: int) -> np.ndarray:
    """Kaldi's compute-fbank-feats in float64: Povey window, snip_edges false, no dither."""
    shift, length = rate // 100, rate // 40
    size = 1 << (length - 1).bit_length()
    count = (len(samples) + shift // 2) // shift
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))) ** 0.85
    filters = mel_filters(rate, size, bins)
    rows = []
    for frame in range(count):
        index = np.arange(length) + frame * shift + shift // 2 - length // 2
        while (outside := (index < 0) | (index >= len(samples))).any():
            mirrored = np.where(index < 0, -index - 1, 2 * len(samples) - 1 - index)
            index = np.where(outside, mirrored, index)
        values = samples[index] - samples[index].mean()
        values = values - 0.97 * np.concatenate([values[:1], values[:-1]])
        power = np.abs(np.fft.rfft(values * window, size)) ** 2
        rows.append(np.log(np.maximum(filters @ power[:-1], EPSILON)))
    return np.array(rows)


def mel_filters(rate: int, size: int, bins: int) -> np.ndarray:
    """Triangles of equal width on the mel scale, from 20 Hz to 400 Hz below Nyquist."""

    def mel(hertz):
        return 1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0)

    low, high = mel(20.0), mel(rate / 2 - 400.0)
    step = (high - low) / (bins + 1)
    points = mel(np.arange(size // 2) * rate / size)
    left = low + step * np.arange(bins)[:, None]
    up, down = (points - left) / step, (left + 2 * step - points) / step
    return np.maximum(0.0, np.minimum(up, down))


def installed(backend: str) -> bool:
    """Whether a backend's package can be imported."""
    try:
        importlib.import_module(backend)
    except (ImportError, OSError):
        return False
    return True


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize(("rate", "bins"), [(16000, 80), (16000, 40), (8000, 64)])
def test_equal_to_kaldis_definition(backend, rate, bins):
    if not installed(backend):
        pytest.skip(f"{backend} is not installed")
    samples = noise(1.234, rate=rate)[:, 0]
    config = FeaturesConfig(backend=backend, sample_rate=rate, num_mel_bins=bins)
    found = get_extractor(config)(samples.astype(np.float32))
    wanted = reference_fbank(samples.astype(np.float32).astype(np.float64), rate, bins)
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-3


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_silence_is_the_floor(backend):
    if not installed(backend):
        pytest.skip(f"{backend} is not installed")
    features = get_extractor(FeaturesConfig(backend=backend))(np.zeros(8000, np.float32))
    assert np.abs(features - np.log(EPSILON)).max() <= 1e-3


@pytest.mark.parametrize("backend", ["kaldifeat", "torchaudio"])
def test_backend_that_is_not_installed(backend):
    if installed(backend):
        pytest.skip(f"{backend} is installed")
    with pytest.raises(ConfigError, match=f"features.backend={backend}.*features.backend=lhotse"):
        get_extractor(FeaturesConfig(backend=backend))
