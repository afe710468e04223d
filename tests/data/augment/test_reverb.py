"""Rooms put on features: identities by hand, against convolved audio, draws, faults."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile

from lmu_asr.config import AugmentConfig, Config, FeaturesConfig, TrainConfig
from lmu_asr.data.augment.reverb import Reverberator, reverberate, room_response
from lmu_asr.data.batches.loaders import build_train_loader
from lmu_asr.data.features.fbank import get_extractor
from lmu_asr.data.features.prepare import prepare_features
from lmu_asr.errors import DataError
from tests.data.speech import RATE, manifests, write_audio

FEATURES = FeaturesConfig()
HOP = 160


def impulses(**at):
    """Samples with values at given places: ``impulses(n0=1.0, n160=0.5)``."""
    samples = np.zeros(2000, np.float32)
    for name, value in at.items():
        samples[int(name[1:])] = value
    return samples


def decaying(seconds, seed=0):
    """Direct sound and a tail that falls by 60 dB over ``seconds``."""
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE)
    tail = rng.standard_normal(count) * 10.0 ** (-3.0 * np.arange(count) / count)
    tail *= 0.3 / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


def random_features(frames=60, seed=0):
    return np.random.default_rng(seed).normal(0.0, 3.0, (frames, 80)).astype(np.float32)


@pytest.mark.parametrize("place", [0, 777])
def test_the_direct_sound_alone_changes_nothing(place):
    response = room_response(impulses(**{f"n{place}": -0.3}), FEATURES)
    assert response.shape == (1, 80)
    np.testing.assert_allclose(response, 1.0, rtol=1e-6)
    features = random_features()
    np.testing.assert_allclose(reverberate(features, response), features, atol=1e-5)


def test_one_echo_by_hand():
    response = room_response(impulses(n0=1.0, n480=0.5), FEATURES)  # after 3 frames, a quarter
    np.testing.assert_allclose(response[[0, 3]], [[0.8] * 80, [0.2] * 80], rtol=1e-5)
    assert len(response) == 4 and not response[1:3].any()
    features = random_features()
    wanted = 0.8 * np.exp(features.astype(np.float64))
    wanted[3:] += 0.2 * np.exp(features[:-3].astype(np.float64))
    np.testing.assert_allclose(reverberate(features, response), np.log(wanted), atol=1e-4)


def test_what_is_60_db_down_is_cut():
    assert len(room_response(impulses(n0=1.0, n1600=0.002), FEATURES)) == 11
    assert len(room_response(impulses(n0=1.0, n1600=0.0005), FEATURES)) == 1


def test_short_utterances():
    response = room_response(decaying(0.5), FEATURES)
    features = random_features(3)
    assert reverberate(features, response).shape == (3, 80)


@pytest.mark.parametrize(("seconds", "share"), [(0.4, 0.75), (0.8, 0.65)])
def test_close_to_convolved_audio(seconds, share):
    """Bursts of noise: the level is right, and most of what a room changes is there."""
    rng = np.random.default_rng(1)
    clean = rng.standard_normal(3 * RATE) * (rng.random(30) < 0.4).repeat(RATE // 10) * 0.1 + 1e-3
    room = decaying(seconds)
    wet = np.convolve(clean, room)[: len(clean)] / np.sqrt(np.sum(room**2))
    extract = get_extractor(FEATURES)
    before, wanted = (extract(x.astype(np.float32)) for x in (clean, wet))
    found = reverberate(before, room_response(room, FEATURES))
    assert abs((found - wanted).mean()) < 0.2
    assert (found - wanted).std() < share * (before - wanted).std()


@pytest.fixture
def rooms(tmp_path):
    """Three rooms, one in stereo, one at 8 kHz."""
    folder = tmp_path / "rooms"
    folder.mkdir()
    soundfile.write(folder / "a.wav", decaying(0.4), RATE)
    soundfile.write(folder / "b.flac", np.stack([decaying(0.2), decaying(0.2, 1)], 1), RATE)
    soundfile.write(folder / "c.wav", decaying(0.3)[::2], RATE // 2)
    return folder


def reverberator(rooms, epoch=0, **changes):
    return Reverberator(AugmentConfig(rir_dir=str(rooms), **changes), FEATURES, 42, epoch)


def test_draw_depends_on_seed_epoch_and_id_alone(rooms):
    features = random_features()
    one, two = reverberator(rooms, reverb_prob=1.0), reverberator(rooms, reverb_prob=1.0)
    first = {name: one(features, name) for name in "abcdefgh"}
    again = {name: two(features, name) for name in "hgfedcba"}
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
    assert len({value.tobytes() for value in first.values()}) == 3
    other = reverberator(rooms, 1, reverb_prob=1.0)
    assert any(not np.array_equal(other(features, name), first[name]) for name in first)


def test_share_of_utterances(rooms):
    features = random_features(5)
    made = reverberator(rooms, reverb_prob=0.25)
    assert 60 <= sum(made(features, f"u{i}") is not features for i in range(400)) <= 140


def test_training_batches_have_rooms_before_noise(rooms, tmp_path):
    paths = {f"u{i}": write_audio(tmp_path / f"u{i}.wav", 0.5, i) for i in range(4)}
    prepare_features(manifests(paths), "train", FEATURES, tmp_path / "fbank", 1, True)
    path = tmp_path / "fbank" / "train_cuts.jsonl.gz"

    def features(**augment):
        config = dataclasses.replace(
            Config(), train=TrainConfig(num_workers=0), augment=AugmentConfig(**augment)
        )
        (batch,) = build_train_loader(path, config)
        return dict(zip(batch.ids, batch.features.numpy(), strict=True))

    room = {"rir_dir": str(rooms), "reverb_prob": 1.0}
    noise = {"noise_dir": str(tmp_path / "fbank/../"), "noise_prob": 1.0, "noise_snr": [0.0, 0.0]}
    plain, wet, both = features(), features(**room), features(**room, **noise)
    made = reverberator(rooms, reverb_prob=1.0)
    for name in plain:
        np.testing.assert_array_equal(wet[name], made(plain[name], name))
        added = np.exp(both[name].astype(np.float64)).mean() / np.exp(wet[name]).mean()
        assert added == pytest.approx(2.0, rel=1e-3)  # at 0 dB of the speech in its room


def test_faults(tmp_path):
    with pytest.raises(DataError, match=r"no such directory \(augment\.rir_dir\)"):
        reverberator(tmp_path / "gone")
    with pytest.raises(DataError, match=r"no audio in it \(augment\.rir_dir\)"):
        reverberator(tmp_path)
    soundfile.write(tmp_path / "zeros.wav", np.zeros(100), RATE)
    with pytest.raises(DataError, match=r"zeros\.wav: an impulse response of zeros"):
        reverberator(tmp_path, reverb_prob=1.0)(random_features(), "a")
