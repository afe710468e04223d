"""Global batches: the same for any number of processes, and exact resuming."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.data.batches.sampler import (
    BatchSampler,
    CutRecord,
    batches_by_duration,
    filter_utterances,
    read_utterances,
)
from lmu_asr.errors import DataError


def utterances(count: int, longest: float = 10.0) -> list[CutRecord]:
    rng = random.Random(count)
    durations = [round(rng.uniform(1.0, longest), 3) for _ in range(count)]
    return [CutRecord(f"u{i}", d, int(100 * d), "a", ("", "", "")) for i, d in enumerate(durations)]


def sampler(items, rank=0, world_size=1, epoch=0, batch=0, max_duration=60.0, seed=1):
    made = BatchSampler(items, max_duration, 5, seed, "f" * 64, rank, world_size)
    made.set_epoch(epoch, batch)
    return made


def ids(batches) -> list[list[str]]:
    return [[u.id for u in batch] for batch in batches]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 120), st.integers(0, 5), st.floats(10.0, 200.0))
def test_every_utterance_once_within_the_limit(count, epoch, max_duration):
    items = utterances(count)
    batches = list(sampler(items, epoch=epoch, max_duration=max_duration))
    assert sorted(u for batch in ids(batches) for u in batch) == sorted(u.id for u in items)
    for batch in batches:
        durations = [u.duration for u in batch]
        assert durations == sorted(durations, reverse=True)
        assert len(batch) == 1 or len(batch) * durations[1] <= max_duration


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_same_global_batches(world_size):
    items = utterances(300)
    whole = ids(sampler(items))
    shares = [ids(sampler(items, rank, world_size)) for rank in range(world_size)]
    together = [sorted(u for part in parts for u in part) for parts in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in whole]


def test_sorted_epochs_hold_the_same_batches_from_short_to_long():
    items = utterances(300)
    for epoch in (0, 1):
        plain, ordered = sampler(items, epoch=epoch), sampler(items, epoch=epoch)
        ordered.sorted_epochs = 1
        before, after = list(plain), list(ordered)
        assert len(ordered) == len(before)
        if epoch == 1:
            assert ids(after) == ids(before)
            continue
        longest = [batch[0].duration for batch in after]
        assert longest == sorted(longest) and ids(after) != ids(before)
        assert sorted(ids(after)) == sorted(ids(before))
        rest = sampler(items, batch=3)
        rest.sorted_epochs = 1
        assert ids(rest) == ids(after)[3:]


def test_fewer_utterances_than_processes():
    items = utterances(2)
    assert [ids(sampler(items, rank, 4)) for rank in range(4)] == [[["u0"]], [["u1"]], [[]], [[]]]


def test_order_depends_on_seed_and_epoch_alone():
    items = utterances(300)
    first = ids(sampler(items))
    assert ids(sampler(items)) == first
    assert ids(sampler(items, epoch=1)) != first
    assert ids(sampler(items, seed=2)) != first


def test_buckets_keep_durations_together():
    batches = list(sampler(utterances(2000)))
    padded = sum(len(b) * max(u.duration for u in b) for b in batches)
    assert sum(u.duration for b in batches for u in b) / padded > 0.8


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 30), st.integers(0, 3))
def test_resuming_is_exact(start, epoch):
    items = utterances(200)
    whole = ids(sampler(items, epoch=epoch))
    assert ids(sampler(items, epoch=epoch, batch=start)) == whole[start:]
    assert len(sampler(items, epoch=epoch, batch=start)) == len(whole)


def test_filter_lists_what_it_leaves_out(caplog):
    items = utterances(10)
    kept = filter_utterances(items, lambda u: "short" if u.id in {"u3", "u4"} else None, "train")
    assert [u.id for u in kept] == [f"u{i}" for i in range(10) if i not in (3, 4)]
    assert "train: 2 of 10 left out: u3 (short); u4 (short)" in caplog.text
    with pytest.raises(DataError, match="no utterance left"):
        filter_utterances(items, lambda u: "no", "train")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 80), st.floats(1.0, 100.0))
def test_evaluation_batches(count, limit):
    items = utterances(count)
    batches = list(batches_by_duration(items, limit))
    flat = [u.duration for batch in batches for u in batch]
    assert flat == sorted(u.duration for u in items)
    assert all(len(b) == 1 or len(b) * b[-1].duration <= limit for b in batches)


def test_manifest_cut_short(tmp_path):
    path = tmp_path / "train_cuts.jsonl.gz"
    with pytest.raises(DataError, match="run stage 1"):
        read_utterances(path)
    path.write_bytes(gzip.compress(b'{"id": "a"}\n'))
    with pytest.raises(DataError, match=r"train_cuts.jsonl.gz:1: not a whole"):
        read_utterances(path)
    path.write_bytes(gzip.compress(b'{"id": "a"}\n' * 10000)[:30])
    with pytest.raises(DataError, match="not a whole"):
        read_utterances(path)


def test_manifest_of_no_bytes_is_named(tmp_path):
    (tmp_path / "cuts.jsonl.gz").write_bytes(b"")
    with pytest.raises(DataError, match="no cuts in it; run stage 1"):
        read_utterances(tmp_path / "cuts.jsonl.gz")
