"""Loaders: padding, workers, memory, faults."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from lmu_asr.config import Config, FeaturesConfig, TrainConfig
from lmu_asr.data.batches import loaders as dataset
from lmu_asr.data.batches.loaders import (
    PADDING,
    build_eval_loader,
    build_train_loader,
    collate,
    default_num_workers,
    load_features,
)
from lmu_asr.data.batches.sampler import read_utterances
from lmu_asr.data.features.prepare import prepare_features, read_cuts
from lmu_asr.errors import DataError
from tests.data.speech import manifests, write_audio

COUNT = 24


@pytest.fixture(scope="module")
def cuts_path(tmp_path_factory):
    """Stored features of utterances from 0.3 to 0.76 s."""
    folder = tmp_path_factory.mktemp("corpus")
    paths = {
        f"u{i:02d}": write_audio(folder / "source" / f"{i}.wav", 0.3 + i / 50, i)
        for i in range(COUNT)
    }
    given = manifests(paths, {name: f"text {name}" for name in paths})
    prepare_features(given, "train", FeaturesConfig(), folder / "fbank", 1, True)
    return folder / "fbank" / "train_cuts.jsonl.gz"


def config(**train) -> Config:
    return dataclasses.replace(Config(), train=TrainConfig(max_duration=3.0, **train))


def test_batches_hold_the_stored_features(cuts_path):
    stored = {c.id: torch.from_numpy(c.load_features()) for c in read_cuts(cuts_path)}
    seen = []
    for batch in build_train_loader(cuts_path, config(num_workers=0)):
        assert batch.features.dtype == torch.float32 and batch.feature_lens.dtype == torch.int64
        assert batch.features.shape[1] == batch.feature_lens.max()
        for i, name in enumerate(batch.ids):
            frames = int(batch.feature_lens[i])
            assert torch.equal(batch.features[i, :frames], stored[name])
            assert (batch.features[i, frames:] == PADDING).all()
            assert batch.texts[i] == f"text {name}"
            assert batch.durations[i] == pytest.approx(frames / 100, abs=0.01)
        seen += batch.ids
    assert sorted(seen) == sorted(stored)


@pytest.mark.parametrize("epoch", [0, 1])
def test_workers_and_memory_do_not_change_the_batches(cuts_path, epoch, monkeypatch):
    def load(workers):
        return list(build_train_loader(cuts_path, config(num_workers=workers), epoch=epoch))

    alone, helped = load(0), load(2)
    dataset._training_set.cache_clear()
    monkeypatch.setattr(dataset, "CACHE_SHARE", 0.0)
    for one, two, three in zip(alone, helped, load(0), strict=True):
        assert one.ids == two.ids == three.ids
        assert torch.equal(one.features, two.features)
        assert torch.equal(one.features, three.features)
    dataset._training_set.cache_clear()


def test_cache_is_said_and_used(cuts_path, caplog, monkeypatch):
    dataset._training_set.cache_clear()
    caplog.set_level("INFO")
    first = list(build_train_loader(cuts_path, config(num_workers=0)))
    assert "held in memory" in caplog.text
    monkeypatch.setattr(dataset, "load_features", None)  # a read would fail
    second = list(build_train_loader(cuts_path, config(num_workers=0)))
    assert torch.equal(first[0].features, second[0].features)
    dataset._training_set.cache_clear()


def test_two_processes_see_one_global_batch(cuts_path):
    whole = list(build_train_loader(cuts_path, config(num_workers=0), epoch=3))
    shares = [
        list(build_train_loader(cuts_path, config(num_workers=0), None, rank, 2, 3, 2))
        for rank in (0, 1)
    ]
    for batch, *parts in zip(whole[2:], *shares, strict=True):
        assert sorted(batch.ids) == sorted(parts[0].ids + parts[1].ids)


def test_empty_share():
    batch = collate([], [])
    assert batch.features.shape == (0, 0, 0) and batch.feature_lens.shape == (0,)
    assert batch.ids == batch.texts == batch.durations == []


def test_length_counts_global_batches_from_any_start(cuts_path):
    loader = build_train_loader(cuts_path, config(num_workers=0))
    late = build_train_loader(cuts_path, config(num_workers=0), start_batch=3)
    assert len(loader) == len(list(loader)) == len(late) == len(list(late)) + 3


def test_filter_is_asked_once(cuts_path):
    asked = []

    def keep(utterance):
        asked.append(utterance.id)
        assert utterance.supervisions[0].text == f"text {utterance.id}"
        return "short" if utterance.num_frames < 40 else None

    for epoch in (0, 1):
        loader = build_train_loader(cuts_path, config(num_workers=0), keep, epoch=epoch)
        assert all(int(b.feature_lens.min()) >= 40 for b in loader)
    assert len(asked) == COUNT


def test_evaluation_goes_by_duration(cuts_path):
    loader = build_eval_loader(cuts_path, 3.0, 0)
    batches = list(loader)
    assert [i for b in batches for i in b.ids] == [f"u{i:02d}" for i in range(COUNT)]
    assert len(loader) == len(batches) > 1


def test_missing_manifest_and_damaged_archive(cuts_path, tmp_path):
    with pytest.raises(DataError, match="run stage 1"):
        build_train_loader(tmp_path / "train_cuts.jsonl.gz", config())
    utterance = read_utterances(cuts_path)[0]
    short = dataclasses.replace(utterance, num_frames=utterance.num_frames + 1)
    with pytest.raises(DataError, match="frames, the manifest says"):
        load_features(short)
    kind, path, key = utterance.storage
    gone = dataclasses.replace(utterance, storage=(kind, path + ".gone", key))
    with pytest.raises(DataError, match=r"features of 'u00' cannot be read.*run stage 1"):
        load_features(gone)
    cut = tmp_path / "cut.lca"
    cut.write_bytes(Path(path).read_bytes()[:100])
    with pytest.raises(DataError, match="run stage 1"):
        load_features(dataclasses.replace(utterance, storage=(kind, str(cut), key)))


def test_killed_worker_is_an_error_that_says_so(cuts_path, monkeypatch):
    def die(utterance):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(dataset, "load_features", die)
    with pytest.raises(DataError, match=r"loader process was killed.*train.num_workers"):
        list(build_eval_loader(cuts_path, 3.0, 1))


def test_machine():
    assert default_num_workers() == 0 or torch.cuda.is_available()
