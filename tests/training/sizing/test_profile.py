"""The machine, the lengths of the data, and memory counted exactly."""

from __future__ import annotations

import gc
import mmap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.data.batches.lengths import Lengths
from lmu_asr.errors import DataError
from lmu_asr.host_memory import HostMemory
from lmu_asr.training.sizing.profile import (
    MIB,
    Bucket,
    ResidentGrowth,
    TensorMemory,
    can_measure,
    forget_resident_peak,
    free_bytes,
    profile_machine,
    profile_speech,
)

CPU = torch.device("cpu")
measured = pytest.mark.skipif(
    not can_measure(CPU), reason="this torch does not tell when a storage ends"
)


def lengths(*rows: tuple[int, int]) -> Lengths:
    frames, tokens = (np.array(column) for column in zip(*rows, strict=True))
    return Lengths(frames, np.arange(len(rows)), tokens)


@measured
def test_bytes_of_live_tensors_and_their_peak() -> None:
    with TensorMemory() as memory:
        a = torch.zeros(1000)
        b = a + 1
        view = b[10:]
        del a, b
        assert memory.bytes == 4000  # the view keeps b
        del view
        assert memory.bytes == 0
        c = torch.zeros(100)
        c += 1
        assert memory.bytes == 400
    assert memory.peak == 8000
    assert c.sum() == 100


@measured
def test_what_is_there_before_is_nothing_new() -> None:
    weight, other = torch.zeros(1000), torch.zeros(50)
    with TensorMemory([weight]) as memory:
        weight.zero_()
        view = weight.view(10, 100).t()
        assert memory.peak == 0
        other.zero_()  # nobody named it
    assert memory.peak == 200 and view.shape == (100, 10)


@measured
def test_saved_activations_count_until_backward() -> None:
    weight = torch.zeros(100, 100, requires_grad=True)
    with TensorMemory() as memory:
        y = torch.tanh(weight)  # saved: 40 kB
        z = y.sum()
        del y
        assert memory.bytes == 40_000 + 4
        z.backward()
        assert memory.bytes == 40_000 + 4  # the gradient stays, the activation has gone


class Pages:
    """Memory straight from the system: it is never what an earlier test has freed."""

    def __init__(self, mib: int) -> None:
        self.area = mmap.mmap(-1, mib * MIB)
        for start in range(0, mib * MIB, mmap.PAGESIZE):
            self.area[start] = 1


forgets = pytest.mark.skipif(not forget_resident_peak(), reason="this system does not forget peaks")


@forgets
def test_resident_peak_is_that_of_the_block() -> None:
    Pages(256)  # an earlier, larger peak
    with ResidentGrowth() as growth:
        Pages(128)
        Pages(64)
    assert growth.bytes == pytest.approx(128 * MIB, rel=0.1)


@forgets
def test_garbage_from_before_is_not_freed_inside_the_block() -> None:
    garbage = [Pages(96)]
    garbage.append(garbage)  # type: ignore[arg-type]
    del garbage
    with ResidentGrowth() as growth:
        kept = [[] for _ in range(200_000)]  # the collector runs after some 700 of them
        area = Pages(128)
    assert growth.bytes > 0.9 * 128 * MIB
    assert gc.isenabled() and kept and area


def test_speech_is_summarised() -> None:
    speech = profile_speech(lengths((100, 10), (300, 20), (200, 50), (300, 5)), buckets=2)
    assert (speech.utterances, speech.frames_in_all, speech.tokens_counted) == (4, 900, 4)
    assert (speech.frames["p50"], speech.frames["max"], speech.tokens["max"]) == (300, 300, 50)
    # half of the audio lies at or below 300 frames: one bucket
    assert speech.buckets == (Bucket(300, 50, 4),)


def test_buckets_hold_equal_audio_and_their_own_most_tokens() -> None:
    rows = [(100, 9)] * 6 + [(200, 7)] * 3 + [(600, 8)]
    assert profile_speech(lengths(*rows), 3).buckets == (
        Bucket(600, 8, 1),
        Bucket(200, 7, 3),
        Bucket(100, 9, 6),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1), st.integers(1, 8))
def test_every_utterance_is_in_one_bucket(rows: list[tuple[int, int]], count: int) -> None:
    buckets = profile_speech(lengths(*rows), count).buckets
    assert 1 <= len(buckets) <= count
    assert sum(bucket.utterances for bucket in buckets) == len(rows)
    assert buckets[0].frames == max(frames for frames, _ in rows)
    edges = [0, *(bucket.frames for bucket in reversed(buckets))]
    assert edges == sorted(set(edges))
    for low, bucket in zip(edges, reversed(buckets)):  # noqa: B905
        own = [tokens for frames, tokens in rows if low < frames <= bucket.frames]
        assert len(own) == bucket.utterances and bucket.tokens == max(1, *own)


def test_a_bucket_without_counted_tokens_takes_the_densest_speech() -> None:
    some = Lengths(np.array([100, 100, 400]), np.array([0, 1]), np.array([30, 20]))
    assert profile_speech(some, 3).buckets == (Bucket(400, 120, 1), Bucket(100, 30, 2))


def test_no_utterance_is_said() -> None:
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match=r"no utterance .* dropped\.jsonl"):
        profile_speech(Lengths(nothing, nothing, nothing))


def test_the_machine_is_described() -> None:
    machine = profile_machine(CPU)
    assert machine.memory_mib == machine.host_memory_mib > 0
    assert machine.cores >= 1 and machine.device and machine.torch == torch.__version__


def test_free_memory_is_shared_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lmu_asr.training.sizing.profile.gc.collect", lambda: 0
    )  # of all earlier tests
    monkeypatch.setattr(
        "lmu_asr.training.sizing.profile.host_memory", lambda: HostMemory(9000 * MIB, 800 * MIB)
    )
    monkeypatch.setattr("lmu_asr.training.sizing.profile.resident_bytes", lambda: 300 * MIB)
    assert [free_bytes(CPU, count) for count in (1, 4)] == [800 * MIB, 200 * MIB]
    assert [free_bytes(CPU, 1, most) for most in (364, 2000, 1)] == [64 * MIB, 800 * MIB, 0]
