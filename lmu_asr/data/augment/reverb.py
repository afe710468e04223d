"""Rooms added to training features: impulse responses applied in the power domain.

The power of a reverberant frame is close to the sum of the clean powers of the frames before it,
each times the energy that the room returns after that time in that band: phases of late reflections
are random, so that cross terms cancel in the mean (Krueger and Haeb-Umbach 2010). So no audio of
the corpus is read again. Shapes: T frames, F mel bins, L frames of a response.
"""

from __future__ import annotations

import functools

import numpy as np
from lhotse import Recording
from lhotse.features.kaldi.layers import create_mel_scale
from numpy.typing import NDArray

from lmu_asr.config import AugmentConfig, FeaturesConfig
from lmu_asr.data.audio.reader import read_audio, resample
from lmu_asr.data.augment.noise import audio_files
from lmu_asr.data.features.fbank import HIGH_HZ, LOW_HZ
from lmu_asr.errors import DataError

TAIL = 1e-6  # share of the energy after which a response is cut: 60 dB
SPECTRUM = 2048  # points of the Fourier transform of one frame shift of a response


class Reverberator:
    """Puts the features of an utterance into a random room.

    The draw depends on the seed, the epoch and the utterance's id alone.

    Args:
        augment: directory of the impulse responses, probability.
        features: filter banks as the corpus has them.
        seed: the recipe's seed.
        epoch: the epoch.

    Raises:
        DataError: the directory is missing or has no readable audio.
    """

    def __init__(
        self, augment: AugmentConfig, features: FeaturesConfig, seed: int, epoch: int
    ) -> None:
        self._augment, self._features = augment, features
        self._seed, self._epoch = seed, epoch
        self._files = audio_files(augment.rir_dir, "augment.rir_dir")

    def __call__(self, features: NDArray[np.float32], utterance: str) -> NDArray[np.float32]:
        """Return features (T, F) in a room, or as they are, by the utterance's draw."""
        # the last number keeps this draw apart from that of the noise
        rng = np.random.default_rng([self._seed, self._epoch, *utterance.encode(), 1])
        if rng.random() >= self._augment.reverb_prob:
            return features
        recording = self._files[int(rng.integers(len(self._files)))]
        return reverberate(features, _response(recording, self._features))


def reverberate(
    features: NDArray[np.float32], response: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return log-mel features (T, F) in the room of a response (L, F) from :func:`room_response`."""
    power = np.exp(features.astype(np.float64))  # (T, F)
    total = power * response[0]
    for lag in range(1, min(len(response), len(power))):
        total[lag:] += power[:-lag] * response[lag]
    return np.log(total).astype(np.float32)


def room_response(samples: NDArray[np.float32], config: FeaturesConfig) -> NDArray[np.float64]:
    """Return the energy (L, F) that a room gives back after each frame shift, in each mel band.

    Time counts from the strongest sample, the direct sound, so that words stay where they are. The
    mean over the bands of all energy is 1, so that the level stays.

    Args:
        samples: impulse response (num_samples,) at ``features.sample_rate``.
        config: filter banks as the corpus has them.
    """
    direct = samples[int(np.argmax(np.abs(samples))) :]
    hop = round(config.frame_shift_ms / 1000.0 * config.sample_rate)
    frames = np.pad(direct, (0, -len(direct) % hop)).reshape(-1, hop)  # (L, hop)
    spectra = np.abs(np.fft.rfft(frames, SPECTRUM)) ** 2
    energy = spectra @ _mel_filters(config.num_mel_bins, config.sample_rate)  # (L, F)
    after = np.cumsum(energy.sum(axis=1)[::-1])[::-1]  # energy from each frame on
    energy = energy[: int(np.count_nonzero(after > TAIL * after[0]))]
    return np.asarray(energy / energy.sum(axis=0).mean())


@functools.lru_cache(maxsize=4)
def _mel_filters(bins: int, rate: int) -> NDArray[np.float64]:
    """Weights (SPECTRUM / 2 + 1, F) that average power over each mel band."""
    return create_mel_scale(bins, SPECTRUM, rate, LOW_HZ, HIGH_HZ).numpy().astype(np.float64)


@functools.lru_cache(maxsize=1000)
def _read(path: str, samples: int, config_key: tuple[int, float, int]) -> NDArray[np.float64]:
    rate, shift, bins = config_key
    config = FeaturesConfig(sample_rate=rate, frame_shift_ms=shift, num_mel_bins=bins)
    audio, own_rate = read_audio(path, 0, samples)
    mono = resample(audio[0], own_rate, rate)
    if not np.any(mono):
        raise DataError(f"{path}: an impulse response of zeros (augment.rir_dir)")
    return room_response(mono, config)


def _response(recording: Recording, config: FeaturesConfig) -> NDArray[np.float64]:
    """Response of the first channel of a file; the last thousand files are held in memory."""
    key = config.sample_rate, config.frame_shift_ms, config.num_mel_bins
    return _read(recording.sources[0].source, recording.num_samples, key)
