"""The index of large manifests: the same utterances, and batches that resume at no cost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import Config, FeaturesConfig, TrainConfig
from lmu_asr.data.batches import index as index_module
from lmu_asr.data.batches.index import Index, IndexedSampler, index_path, open_index, plan_batches
from lmu_asr.data.batches.loaders import build_train_loader
from lmu_asr.data.batches.sampler import read_utterances
from lmu_asr.data.features.prepare import prepare_features
from lmu_asr.errors import DataError
from lmu_asr.files import write_jsonl
from tests.data.speech import manifests, write_audio


def cut(number: int, duration: float) -> dict:
    return {
        "id": f"u{number}",
        "duration": duration,
        "supervisions": [{"text": f"größe {number}"}],
        "features": {
            "num_frames": round(100 * duration),
            "storage_type": "lilcom_chunky",
            "storage_path": "feats/a.lca",
            "storage_key": f"{number},5",
        },
    }


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """A manifest of 500 cuts that counts as large."""
    monkeypatch.setattr(index_module, "LEAST_BYTES", 0)
    rng = np.random.default_rng(0)
    path = tmp_path / "train_cuts.jsonl.gz"
    write_jsonl(path, [cut(i, round(float(d), 3)) for i, d in enumerate(rng.uniform(1, 10, 500))])
    return path


def sampler(manifest, rank=0, world_size=1, epoch=0, batch=0, keep=None):
    made = IndexedSampler(open_index(manifest), keep, 60.0, 5, 1, rank, world_size)
    made.set_epoch(epoch, batch)
    return made


def ids(batches) -> list[list[str]]:
    return [[u.id for u in batch] for batch in batches]


def test_the_same_utterances_as_the_manifest(manifest):
    index = open_index(manifest)
    wanted = read_utterances(manifest)
    assert [index[i] for i in range(len(index))] == wanted
    np.testing.assert_array_equal(index.durations, [u.duration for u in wanted])


def test_small_manifests_have_none(tmp_path):
    write_jsonl(tmp_path / "a_cuts.jsonl.gz", [cut(0, 1.0)])
    assert open_index(tmp_path / "a_cuts.jsonl.gz") is None
    assert open_index(tmp_path / "gone.jsonl.gz") is None


def test_index_follows_its_manifest(manifest):
    first = open_index(manifest)
    time = index_path(manifest).stat().st_mtime_ns
    open_index(manifest)
    assert index_path(manifest).stat().st_mtime_ns == time
    write_jsonl(manifest, [cut(i, 2.0) for i in range(9)])
    again = open_index(manifest)
    assert len(again) == 9 and again.fingerprint != first.fingerprint


def test_damaged_index(manifest):
    open_index(manifest)
    path = index_path(manifest)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match="cut short; delete it"):
        Index(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="not an index"):
        Index(path)


def test_a_flipped_bit_anywhere_is_found(manifest):
    write_jsonl(manifest, [cut(i, 2.0 + i) for i in range(3)])
    open_index(manifest)
    path = index_path(manifest)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(DataError, match="delete it and run again"):
            found = Index(path)
            list(map(found.__getitem__, range(len(found))))


def test_an_index_of_an_earlier_version_is_made_again(manifest):
    open_index(manifest)
    path = index_path(manifest)
    data = path.read_bytes()
    path.write_bytes(b"LMUINDEX1\n" + data[len(b"LMUINDEX1\n") :])
    open_index(manifest)
    assert path.read_bytes() == data


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.1, 40.0), min_size=1, max_size=300),
    st.floats(1.0, 200.0),
    st.integers(1, 12),
    st.integers(0, 9),
)
def test_plan(durations, limit, buckets, seed):
    values = np.array(durations)
    plan = plan_batches(values, limit, buckets, np.random.default_rng(seed))
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(values)))
    for batch in plan:
        assert len(batch) == 1 or len(batch) * values[batch].max() <= limit


def test_plan_keeps_durations_together():
    durations = np.random.default_rng(0).uniform(1.0, 20.0, 20000)
    plan = plan_batches(durations, 300.0, 20, np.random.default_rng(1))
    padded = sum(len(b) * durations[b].max() for b in plan)
    assert durations.sum() / padded > 0.93


def test_ranks_epochs_and_resuming(manifest):
    whole = ids(sampler(manifest))
    assert ids(sampler(manifest)) == whole != ids(sampler(manifest, epoch=1))
    assert len(sampler(manifest)) == len(whole)
    assert ids(sampler(manifest, batch=7)) == whole[7:]
    shares = [ids(sampler(manifest, rank, 2)) for rank in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(parts[0] + parts[1])


def test_filter_leaves_batches_smaller_and_says_so(manifest, caplog):
    def keep(utterance):
        return "unwanted" if utterance.id.endswith("7") else None

    whole = ids(sampler(manifest))
    found = ids(sampler(manifest, keep=keep))
    assert found == [[i for i in batch if not i.endswith("7")] for batch in whole]
    assert "u7 (unwanted)" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_over_an_index(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(index_module, "LEAST_BYTES", 0)
    paths = {f"u{i}": write_audio(tmp_path / f"u{i}.wav", 0.3 + i / 50, i) for i in range(9)}
    prepare_features(manifests(paths), "train", FeaturesConfig(), tmp_path / "fbank", 1, True)
    path = tmp_path / "fbank" / "train_cuts.jsonl.gz"
    assert index_path(path).is_file()
    config = dataclasses.replace(Config(), train=TrainConfig(max_duration=1.5, num_workers=workers))
    batches = list(build_train_loader(path, config))
    assert sorted(i for b in batches for i in b.ids) == sorted(paths)
    late = list(build_train_loader(path, config, start_batch=2))
    assert [b.ids for b in late] == [b.ids for b in batches[2:]]
    assert late[0].features.equal(batches[2].features)


def test_samplers_share_the_plan_of_an_epoch(manifest, monkeypatch):
    first = sampler(manifest, epoch=2)
    wanted = ids(first)
    monkeypatch.setattr(index_module, "plan_batches", None)  # whoever planned again would fail
    assert ids(sampler(manifest, epoch=2)) == wanted
    assert ids(sampler(manifest, epoch=2, batch=3)) == wanted[3:]
    with pytest.raises(TypeError):
        ids(sampler(manifest, epoch=3))
