"""Measured steps, lines through them, and bisection on a device of known size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lmu_asr.models.head import Targets
from lmu_asr.training.loop.step import GradientStep
from lmu_asr.training.sizing.probe import (
    MemoryLine,
    Probe,
    Prober,
    StepMemory,
    cost_through,
    evened_out,
    largest_fitting,
)
from lmu_asr.training.sizing.profile import MIB, Bucket, can_measure
from tests.training.loop.test_step import SmallMemory, gradient_step
from tests.training.toy import F, ToyModel

BUCKET = Bucket(50, 9, 1)


def step_of(model: nn.Module | None = None, cr_ctc: float = 0.0) -> GradientStep:
    torch.manual_seed(0)
    return gradient_step(model or ToyModel(0.1, 200), cr_ctc)


def probe(rows: int, tensors: float, resident: float | None = None) -> Probe:
    return Probe(rows, 100, 5, 100 * rows, tensors, resident, 1.0)


def test_a_line_goes_through_two_steps() -> None:
    cost = cost_through(probe(1, 30.0, 25.0), probe(3, 50.0, 60.0))
    assert cost == StepMemory(MemoryLine(20.0 * MIB, 0.1 * MIB), 1.2)
    assert cost.at(100) == pytest.approx(36 * MIB) and cost.at(300) == pytest.approx(60 * MIB)
    assert cost.resident is not None and cost.resident.at(300) == pytest.approx(60 * MIB)
    assert cost.fitting(48.1 * MIB) == 200  # of resident memory; tensors would be 281
    assert cost.fitting(10.0 * MIB) == 0


def test_tensors_that_were_not_all_written_count_whole() -> None:
    cost = cost_through(probe(1, 30.0, 10.0), probe(3, 50.0, 40.0))
    assert cost.at(300) == 50 * MIB and cost.fitting(50 * MIB) == 300


def test_one_step_alone_counts_as_a_line_through_nothing() -> None:
    assert cost_through(probe(1, 30.0), None) == StepMemory(MemoryLine(0.0, 0.3 * MIB), None)
    assert cost_through(probe(1, 30.0, 45.0), None) == StepMemory(MemoryLine(0.0, 0.3 * MIB), 1.5)


def test_half_of_chance_is_that_of_all() -> None:
    line = MemoryLine(1.0, 2.0)
    found = evened_out([StepMemory(line, 1.1), StepMemory(line, 1.3), StepMemory(line, None)])
    assert [cost.held for cost in found] == [pytest.approx(1.15), pytest.approx(1.25), None]
    assert evened_out([StepMemory(line, None)]) == [StepMemory(line, None)]


@given(st.integers(0, 300), st.integers(0, 300), st.booleans())
def test_bisection_finds_what_fits(capacity: int, guess: int, raises: bool) -> None:
    tried = []

    def run(rows: int) -> Probe:
        tried.append(rows)
        if raises and rows > capacity:
            raise MemoryError("too large")
        return probe(rows, float(rows))

    found, best = largest_fitting(run, guess, capacity * MIB)
    most = min(guess, capacity)
    assert found <= most
    assert most - found <= max(1, found // 8) or (found == most == 0)
    assert (best is None) == (found == 0)
    assert best is None or best.rows == found
    assert len(tried) == len(set(tried)) <= 10
    if guess and guess <= capacity:
        assert tried == [guess]


@pytest.mark.skipif(not can_measure(torch.device("cpu")), reason="this torch cannot measure")
def test_measuring_changes_nothing() -> None:
    class Counting(ToyModel):
        def __init__(self) -> None:
            super().__init__(0.0)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor, lens: Tensor, targets: Targets | None = None) -> Any:
            self.get_buffer("calls").add_(1)
            return super().forward(x, lens, targets)

    step = step_of(Counting())
    step.limits = [(50, 60)]
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    prober = Prober(step, F, 1)
    measured = prober.run(3, BUCKET)
    assert (measured.rows, measured.frames, measured.tokens) == (3, 50, 9)
    assert measured.padded_frames == 150 and (measured.tensor_mib or 0) > 0
    assert prober.run(3, BUCKET, count=False).tensor_mib is None
    assert len(prober.probes) == 2
    assert all(torch.equal(before[k], v) for k, v in step.model.state_dict().items())
    assert step.flat.buffer.abs().max() == 0 and step.limits == [(50, 60)]


@pytest.mark.skipif(not can_measure(torch.device("cpu")), reason="this torch cannot measure")
def test_a_first_step_that_counts_for_nothing_comes_before_what_is_measured() -> None:
    model = SmallMemory(ToyModel(0.0), 10_000, "backward")
    prober = Prober(step_of(model), F, 1)
    prober.run(2, BUCKET, count=False)
    prober.run(3, BUCKET)
    prober.run(3, BUCKET)
    assert model.sizes == [2, 1, 3, 3] and [p.rows for p in prober.probes] == [2, 3, 3]


def test_a_step_that_does_not_fit_is_no_step_in_pieces() -> None:
    model = SmallMemory(ToyModel(0.0), 100, "backward")
    prober = Prober(step_of(model), F, 1)
    prober.run(2, BUCKET, count=False)
    with pytest.raises(MemoryError, match="memory"):
        prober.run(3, BUCKET, count=False)
    assert model.sizes == [2, 3] and len(prober.probes) == 1


@pytest.mark.skipif(not can_measure(torch.device("cpu")), reason="this torch cannot measure")
def test_views_count() -> None:
    one = Prober(step_of(), F, 1).run(4, BUCKET)
    two = Prober(step_of(None, 0.2), F, 1).run(4, BUCKET)
    assert two.padded_frames == 2 * one.padded_frames == 400
    assert (two.tensor_mib or 0) > 1.5 * (one.tensor_mib or 0)
