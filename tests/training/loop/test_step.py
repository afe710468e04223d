"""Gradients of a step: independent of chunks, accumulation and memory failures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lmu_asr.models.head import Targets
from lmu_asr.models.losses.ctc import ctc_loss
from lmu_asr.models.losses.training import TrainingLoss
from lmu_asr.training.loop.step import GradientStep, TrainBatch, is_out_of_memory
from lmu_asr.training.parallel.processes import current_world
from tests.training.toy import ToyLang, ToyModel, make_batch

CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 400 bytes. Error code 12 (Cannot allocate memory)"
)


class Failing(torch.autograd.Function):
    """Identity that runs out of memory in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError(CPU_MESSAGE)


class SmallMemory(nn.Module):
    """A model that fits ``limit`` padded frames, and fails in forward or in backward beyond."""

    def __init__(self, inner: Any, limit: int, where: str) -> None:
        super().__init__()
        self.inner, self.limit, self.where = inner, limit, where
        self.head = inner.head
        self.sizes: list[int] = []

    def forward(self, x: Tensor, lens: Tensor, targets: Targets | None = None) -> Any:
        self.sizes.append(x.shape[0])
        full = x.shape[0] * x.shape[1] > self.limit
        if full and self.where == "forward":
            raise RuntimeError(CPU_MESSAGE)
        first, *rest = self.inner(x, lens, targets)
        return (Failing.apply(first) if full else first), *rest


def train_batch(rows: int, index: int = 0, views: int = 1) -> TrainBatch:
    batch = make_batch(rows, "step", index)
    targets = [ToyLang().encode(text) for text in batch.texts]
    copies = tuple(batch.features * (1 + view) for view in range(views))
    return TrainBatch(copies, batch.feature_lens, targets, batch.ids, sum(batch.durations))


def gradient_step(model: Any, cr_ctc: float = 0.0) -> GradientStep:
    model.head.rule = TrainingLoss(ctc_loss, cr_ctc)
    model.head.views = model.head.rule.views
    return GradientStep(model, current_world(prefer_gpu=False), None, lambda: None)


def toy(seed: int = 0) -> ToyModel:
    torch.manual_seed(seed)
    return ToyModel(dropout=0.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9), st.one_of(st.none(), st.integers(1, 300)))
def test_chunks_partition_a_batch(rows: int, limit: int | None) -> None:
    batch = train_batch(rows)
    parts = list(batch.chunks(limit))
    assert [name for part in parts for name in part.ids] == batch.ids
    assert sum(part.seconds for part in parts) == pytest.approx(batch.seconds)
    assert all(part.ids for part in parts)
    if rows:
        assert torch.equal(torch.cat([part.views[0] for part in parts]), batch.views[0])
        assert max(p.padded_frames for p in parts) <= max(limit or math.inf, 20)
        sizes = [len(part.ids) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_gradient_is_of_the_summed_loss() -> None:
    model, batch = toy(), train_batch(4)
    step = gradient_step(model)
    sums = step.run([batch], scale=8.0)
    model.zero_grad(set_to_none=True)
    log_probs, lens = model(batch.views[0], batch.feature_lens)
    loss = ctc_loss(log_probs, lens, batch.targets).sum()
    (8.0 * loss).backward()
    want = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(step.flat.gradients, want)
    assert sums.loss == pytest.approx(loss.item())
    assert sums.frames == batch.feature_lens.sum().item()
    assert sums.padded_frames == 80 and sums.real_frames == sums.frames
    assert sums.seconds == pytest.approx(batch.seconds)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("cr_ctc", [0.0, 0.3])
def test_out_of_memory_gives_the_same_gradient(where: str, cr_ctc: float) -> None:
    views = 2 if cr_ctc else 1
    batches = [train_batch(7, 0, views), train_batch(3, 1, views)]
    plain = gradient_step(toy(), cr_ctc)
    want = plain.run(batches, 1.0)
    step = gradient_step(SmallMemory(toy(), 45 * views, where), cr_ctc)
    got = step.run(batches, 1.0)
    assert got.out_of_memory >= 1
    torch.testing.assert_close(step.flat.gradients, plain.flat.gradients, rtol=1e-4, atol=1e-5)
    assert (got.loss, got.frames) == (pytest.approx(want.loss), want.frames)
    assert step.utterances() == plain.utterances()


def test_two_thrashing_steps_shrink_for_good() -> None:
    model = SmallMemory(toy(), 60, "backward")
    step = gradient_step(model)
    retries = [step.run([train_batch(6, index)], 1.0).out_of_memory for index in range(4)]
    assert retries == [1, 1, 0, 0]
    assert step.frame_limit == 60
    assert model.sizes[-2:] == [3, 3]


def test_one_calm_step_forgets_the_thrashing() -> None:
    model = SmallMemory(toy(), 60, "forward")
    step = gradient_step(model)
    for rows in (6, 3, 6):
        step.run([train_batch(rows)], 1.0)
    assert step.frame_limit is None


def test_a_single_utterance_too_large_is_hopeless() -> None:
    step = gradient_step(SmallMemory(toy(), 5, "forward"))
    sums = step.run([train_batch(2)], 1.0)
    assert sums.hopeless == 1
    assert step.flat.gradients.abs().max() == 0


def test_other_errors_are_not_retried() -> None:
    model = SmallMemory(toy(), 10**9, "forward")
    step = gradient_step(model)
    batch = train_batch(2)
    wrong = TrainBatch((batch.views[0][..., :3],), *list(vars(batch).values())[1:])
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        step.run([wrong], 1.0)
    assert len(model.sizes) == 1


def test_infinite_losses_are_named() -> None:
    batch = train_batch(3)
    batch.targets[1] = [1] * 15  # needs 29 frames of at most 20
    step = gradient_step(toy())
    assert step.run([batch], 1.0).bad == 1
    assert step.bad_utterances() == [(batch.ids[1], math.inf)]


def test_an_empty_share_gives_no_gradient() -> None:
    step = gradient_step(toy())
    sums = step.run([train_batch(0)], 1.0)
    assert sums.frames == 0 and step.flat.gradients.abs().max() == 0


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (RuntimeError(CPU_MESSAGE), True),
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_which_errors_mean_memory(error: BaseException, want: bool) -> None:
    assert is_out_of_memory(error) is want
