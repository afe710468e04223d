"""Noise mixed into features: level, order-free draws, faults."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import AugmentConfig, Config, FeaturesConfig, TrainConfig
from lmu_asr.data.augment.noise import NoiseMixer, mix
from lmu_asr.data.batches.loaders import build_train_loader
from lmu_asr.data.features.fbank import get_extractor
from lmu_asr.data.features.prepare import prepare_features
from lmu_asr.errors import DataError
from tests.data.speech import RATE, manifests, noise, write_audio


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """A long file, a short one, one at 8 kHz and one in stereo."""
    folder = tmp_path_factory.mktemp("noise")
    write_audio(folder / "a" / "long.wav", 3.0, 1)
    write_audio(folder / "short.flac", 0.2, 2)
    write_audio(folder / "slow.wav", 1.0, 3, rate=8000)
    write_audio(folder / "stereo.wav", 1.0, 4, channels=2)
    return folder


def mixer(noises, epoch=0, **changes):
    augment = AugmentConfig(noise_dir=str(noises), **changes)
    return NoiseMixer(augment, FeaturesConfig(), 7, epoch)


@settings(max_examples=20, deadline=None)
@given(st.floats(-5.0, 30.0), st.integers(0, 99))
def test_ratio_of_powers(snr_db, seed):
    rng = np.random.default_rng(seed)
    speech, other = rng.standard_normal((2, 50, 80)).astype(np.float32)
    added = np.exp(mix(speech, other, snr_db).astype(np.float64)) - np.exp(speech)
    found = 10.0 * np.log10(np.exp(speech).mean() / added.mean())
    assert found == pytest.approx(snr_db, abs=0.01)
    np.testing.assert_allclose(added / added.mean(), np.exp(other) / np.exp(other).mean(), atol=0.2)


def test_mixing_features_is_close_to_mixing_audio():
    extract = get_extractor(FeaturesConfig())
    speech, other = noise(2.0, 1)[:, 0], noise(2.0, 2)[:, 0]
    scale = np.sqrt(np.mean(speech**2) / np.mean(other**2) / 10.0)
    wanted = extract((speech + scale * other).astype(np.float32))
    found = mix(extract(speech.astype(np.float32)), extract(other.astype(np.float32)), 10.0)
    assert abs((found - wanted).mean()) < 0.1


def test_draw_depends_on_seed_epoch_and_id_alone(noises):
    features = np.zeros((90, 80), np.float32)
    one, two = mixer(noises, noise_prob=1.0), mixer(noises, noise_prob=1.0)
    first = one(features, "a")
    two(features, "b")
    np.testing.assert_array_equal(two(features, "a"), first)
    assert not np.array_equal(two(features, "b"), first)
    assert not np.array_equal(mixer(noises, 1, noise_prob=1.0)(features, "a"), first)
    assert first.shape == (90, 80) and np.isfinite(first).all()


def test_share_of_utterances(noises):
    features = np.zeros((5, 80), np.float32)
    made = mixer(noises, noise_prob=0.25)
    changed = sum(made(features, f"u{i}") is not features for i in range(400))
    assert 60 <= changed <= 140
    assert mixer(noises, noise_prob=0.0)(features, "a") is features


def test_training_batches_have_it_and_memory_does_not(noises, tmp_path):
    paths = {f"u{i}": write_audio(tmp_path / f"u{i}.wav", 0.5, i) for i in range(4)}
    prepare_features(manifests(paths), "train", FeaturesConfig(), tmp_path / "fbank", 1, True)
    config = dataclasses.replace(
        Config(),
        train=TrainConfig(num_workers=0),
        augment=AugmentConfig(noise_dir=str(noises), noise_prob=1.0),
    )
    clean = dataclasses.replace(config, augment=AugmentConfig())
    path = tmp_path / "fbank" / "train_cuts.jsonl.gz"
    (first,), (plain,), (again,) = (
        list(build_train_loader(path, c)) for c in (config, clean, config)
    )
    assert (first.features > plain.features).float().mean() > 0.95
    assert first.features.equal(again.features)


def test_faults(tmp_path):
    with pytest.raises(DataError, match=r"no such directory \(augment.noise_dir\)"):
        mixer(tmp_path / "gone")
    with pytest.raises(DataError, match="no audio in it"):
        mixer(tmp_path)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    with pytest.raises(DataError, match="no samples"):
        mixer(tmp_path)
