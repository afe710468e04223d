"""Noise recordings mixed into training features at random signal-to-noise ratios.

Mel energies of independent signals add, so noise is added to the stored features in the power
domain, and no audio of the corpus is read again. Shapes: T frames, F mel bins.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lhotse import Recording
from numpy.typing import NDArray

from lmu_asr.config import AugmentConfig, FeaturesConfig
from lmu_asr.data.audio.reader import (
    AUDIO_SUFFIXES,
    is_audio,
    read_audio,
    recording_from_file,
    resample,
)
from lmu_asr.data.features.fbank import get_extractor
from lmu_asr.errors import DataError
from lmu_asr.files import files_below


class NoiseMixer:
    """Adds a random part of a random noise file to the features of an utterance.

    The draw depends on the seed, the epoch and the utterance's id alone.

    Args:
        augment: directory of the noise, probability, limits of the ratio.
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
        self._files = audio_files(augment.noise_dir, "augment.noise_dir")
        self._extract = get_extractor(features)

    def __call__(self, features: NDArray[np.float32], utterance: str) -> NDArray[np.float32]:
        """Return features (T, F) with noise, or as they are, by the utterance's draw."""
        rng = np.random.default_rng([self._seed, self._epoch, *utterance.encode()])
        if rng.random() >= self._augment.noise_prob:
            return features
        recording = self._files[int(rng.integers(len(self._files)))]
        noise = self._noise(recording, len(features), rng)
        snr_db = rng.uniform(self._augment.noise_snr[0], self._augment.noise_snr[-1])
        return mix(features, noise, snr_db)

    def _noise(
        self, recording: Recording, num_frames: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Features (num_frames, F) of a random part of a file, repeated where it is shorter."""
        shift = self._features.frame_shift_ms / 1000.0
        wanted = int(np.ceil(num_frames * shift * recording.sampling_rate))
        count = min(wanted, recording.num_samples)
        first = int(rng.integers(recording.num_samples - count + 1))
        samples, rate = read_audio(recording.sources[0].source, first, count)
        mono = resample(samples.mean(axis=0), rate, self._features.sample_rate)
        length = round(num_frames * shift * self._features.sample_rate)
        return self._extract(np.resize(mono, length))[:num_frames]


def mix(
    features: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float
) -> NDArray[np.float32]:
    """Add log-mel noise (T, F) to log-mel features (T, F), ``snr_db`` below their mean power."""
    speech_power, noise_power = np.exp(features), np.exp(noise)
    gain = speech_power.mean() / noise_power.mean() * 10.0 ** (-snr_db / 10.0)
    return np.asarray(np.log(speech_power + gain * noise_power), dtype=np.float32)


def audio_files(directory: str, option: str) -> list[Recording]:
    """Describe every audio file below a directory, in a fixed order; ``option`` named it.

    Raises:
        DataError: the directory is missing or has no audio, or a file of it is broken.
    """
    root = Path(directory)
    if not root.is_dir():
        raise DataError(f"{root}: no such directory ({option})")
    paths = sorted(p for p in files_below(root) if is_audio(p))
    if not paths:
        raise DataError(f"{root}: no audio in it ({option}); want {', '.join(AUDIO_SUFFIXES)}")
    return [recording_from_file(path, path.name) for path in paths]
