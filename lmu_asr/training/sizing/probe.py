"""Real steps on synthetic features, and what they took: memory and time.

Shapes: N rows (utterances), T frames, F features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from lmu_asr.training.loop.state import seed_everything
from lmu_asr.training.loop.step import GradientStep, TrainBatch
from lmu_asr.training.sizing.profile import (
    MIB,
    Bucket,
    ResidentGrowth,
    TensorMemory,
    forget_resident_peak,
)

CHANGES_NO_OUTPUT = True


@dataclass(frozen=True)
class Probe:
    """One measured step.

    Attributes:
        rows, frames, tokens: utterances, and frames and tokens of each.
        padded_frames: frames computed, views included.
        tensor_mib: peak of tensors above what was in use before; None: not counted.
        resident_mib: the same of resident memory, with what operations take for themselves; None
            where not counted, on a GPU, and where the system does not tell.
        seconds: wall time.
    """

    rows: int
    frames: int
    tokens: int
    padded_frames: int
    tensor_mib: float | None
    resident_mib: float | None
    seconds: float

    @property
    def peak(self) -> float:
        """Bytes that count against a budget: the larger of what tensors and the process took."""
        return max(self.tensor_mib or 0.0, self.resident_mib or 0.0) * MIB


@dataclass(frozen=True)
class MemoryLine:
    """Bytes of a step over its padded frames, for one length of utterances."""

    fixed: float
    slope: float

    def at(self, frames: int) -> float:
        """Bytes of a step of ``frames`` padded frames."""
        return self.fixed + self.slope * frames

    def fitting(self, budget: float) -> int:
        """Padded frames that fit into ``budget`` bytes."""
        return max(0, int((budget - self.fixed) / self.slope))


@dataclass(frozen=True)
class StepMemory:
    """Memory of steps of one length of utterances: of tensors and, on a CPU, of the process.

    Attributes:
        tensors: bytes that tensors take.
        held: resident bytes for each byte of tensors: what the allocator holds between them too;
            None: not counted.
    """

    tensors: MemoryLine
    held: float | None

    @property
    def resident(self) -> MemoryLine | None:
        """Resident bytes."""
        if self.held is None:
            return None
        return MemoryLine(self.tensors.fixed * self.held, self.tensors.slope * self.held)

    def at(self, frames: int) -> float:
        """Bytes of a step of ``frames`` padded frames: the larger of both."""
        return max(1.0, self.held or 1.0) * self.tensors.at(frames)

    def fitting(self, budget: float) -> int:
        """Padded frames of which both fit into ``budget`` bytes."""
        return self.tensors.fitting(budget / max(1.0, self.held or 1.0))


def cost_through(first: Probe, second: Probe | None) -> StepMemory:
    """Tensors: the line through the peaks of two steps of different size, or of one and nothing.

    What the process holds for each byte of tensors is that of the larger step: it changes little
    with the size, and more from step to step by chance (see :func:`evened_out`).
    """
    if second is None:
        tensors = MemoryLine(0.0, max(1.0, (first.tensor_mib or 0.0) * MIB / first.padded_frames))
    else:
        tensors = _through(first, second, first.tensor_mib or 0.0, second.tensor_mib or 0.0)
    last = second or first
    if last.resident_mib is None or not last.tensor_mib:
        return StepMemory(tensors, None)
    return StepMemory(tensors, last.resident_mib / last.tensor_mib)


def evened_out(costs: Sequence[StepMemory]) -> list[StepMemory]:
    """Let each length's own ratio of resident memory count as much as the mean of all.

    Where the allocator finds room is chance: the ratio of one step differs by some 5 % from that of
    the next, which is as much as lengths differ.
    """
    known = [cost.held for cost in costs if cost.held is not None]
    mean = sum(known) / max(1, len(known))
    return [
        cost if cost.held is None else replace(cost, held=(cost.held + mean) / 2) for cost in costs
    ]


def _through(first: Probe, second: Probe, low: float, high: float) -> MemoryLine:
    """The line through two peaks in MiB."""
    # chance may make the larger step look smaller, and fitting divides by the slope
    slope = max(1.0, (high - low) * MIB / (second.padded_frames - first.padded_frames))
    return MemoryLine(max(0.0, low * MIB - slope * first.padded_frames), slope)


class Prober:
    """Measures steps; the model's weights, buffers and gradients stay as they are.

    Args:
        step: the training step, on its device.
        bins: features of a frame.
        seed: of the synthetic features.
    """

    def __init__(self, step: GradientStep, bins: int, seed: int) -> None:
        self.step, self.bins, self.seed = step, bins, seed
        self.device = step.world.device
        self.probes: list[Probe] = []
        self._warm = False
        self._resident = self.device.type == "cpu" and forget_resident_peak()

    def run(self, rows: int, bucket: Bucket, count: bool = True) -> Probe:
        """Measure one step of ``rows`` utterances as long as the bucket's longest.

        Args:
            rows: utterances.
            bucket: their frames and tokens.
            count: measure memory too, which makes a step on a CPU somewhat slower.

        Raises:
            MemoryError: it does not fit.
        """
        batch = self._batch(rows, bucket)
        buffers = list(self.step.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        try:
            if count:
                self._warm_up(bucket)
            seed_everything(self.seed, "autoconf")
            tensors, resident, seconds = self._measure(batch, count)
        finally:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)  # running statistics do not learn from noise
        size = rows, bucket.frames, bucket.tokens, batch.padded_frames
        probe = Probe(*size, _mib(tensors), _mib(resident), round(seconds, 4))
        self.probes.append(probe)
        return probe

    def _warm_up(self, bucket: Bucket) -> None:
        """Take the one step that loads code, compiles kernels and makes workspaces, which stay."""
        if not self._warm:
            self.step.probe(self._batch(1, bucket))
            self._warm = True

    def _batch(self, rows: int, bucket: Bucket) -> TrainBatch:
        generator = torch.Generator().manual_seed(self.seed)
        size = (rows, bucket.frames, self.bins)  # (N, T, F)
        views = [torch.randn(size, generator=generator) for _ in range(self.step.head.views)]
        # two tokens in turn: equal neighbours would need more frames, for a blank between them
        targets = [[1 + place % 2 for place in range(bucket.tokens)]] * rows
        names = [f"probe-{row}" for row in range(rows)]
        return TrainBatch(tuple(views), torch.full((rows,), bucket.frames), targets, names, 0.0)

    def _measure(self, batch: TrainBatch, count: bool) -> tuple[int | None, int | None, float]:
        """Peak bytes of tensors and of the process, and seconds."""
        if self.device.type == "cuda":
            return self._measure_gpu(batch)
        if not count:
            start = time.monotonic()
            self.step.probe(batch)
            return None, None, time.monotonic() - start
        model = self.step.model
        there = [*model.parameters(), *model.buffers(), self.step.flat.buffer, *batch.views]
        with ResidentGrowth() as resident:
            start = time.monotonic()
            with TensorMemory(there) as memory:
                self.step.probe(batch)
            seconds = time.monotonic() - start
        return memory.peak, resident.bytes if self._resident else None, seconds

    def _measure_gpu(self, batch: TrainBatch) -> tuple[int, None, float]:
        # kernels that are still queued would count as this step's time
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        start = time.monotonic()
        self.step.probe(batch)
        torch.cuda.synchronize(self.device)
        seconds = time.monotonic() - start
        return torch.cuda.max_memory_allocated(self.device) - before, None, seconds


def _mib(count: int | None) -> float | None:
    return None if count is None else round(count / MIB, 2)


def largest_fitting(
    run: Callable[[int], Probe], guess: int, budget: float
) -> tuple[int, Probe | None]:
    """Find, by real steps, how many utterances fit: ``guess`` if that does, else by bisection.

    Args:
        run: measures a step of so many utterances; raises MemoryError where they do not fit.
        guess: the most that is tried.
        budget: bytes.

    Returns:
        Utterances, at most an eighth below the most that fit, and their step; 0 and None if none fits.
    """
    low, found, high, rows = 0, None, guess + 1, guess
    while low < rows < high:
        probe = _tried(run, rows)
        if probe is not None and probe.peak <= budget:
            low, found = rows, probe
        else:
            high = rows
        if high - low <= max(1, low // 8):
            break
        rows = (low + high) // 2
    return low, found


def _tried(run: Callable[[int], Probe], rows: int) -> Probe | None:
    """One step; None, with the exception and all that it holds gone, where it does not fit."""
    try:
        return run(rows)
    except MemoryError:
        return None
