"""Sized by measurement: how batches are computed on this machine.

A *bucket* is a range of lengths of training utterances. For each, smaller real steps on synthetic
features with the most tokens of any of its utterances give the memory that does not grow with a
batch and the bytes of one padded frame. From these follows how much of a batch fits into the budget,
a share of the free memory; where that comes near it, it is run for real, and bisected while it does
not fit. Batches that do not fit are computed in micro-batches of equal gradient, so a plan never
changes what is learnt, only how it is computed.
Where batches fit whole it depends on no measured time but for the number of loader processes: two
runs on one machine compute the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from lmu_asr.config import Config
from lmu_asr.data.batches.loaders import MOST_WORKERS
from lmu_asr.errors import TrainingError
from lmu_asr.training.loop.optim import count_parameters
from lmu_asr.training.loop.precision import dtype_of, time_precisions
from lmu_asr.training.loop.step import GradientStep
from lmu_asr.training.parallel.processes import World, available_cores
from lmu_asr.training.sizing.plan import BucketPlan, Plan, plan_keys
from lmu_asr.training.sizing.probe import (
    Probe,
    Prober,
    StepMemory,
    cost_through,
    evened_out,
    largest_fitting,
)
from lmu_asr.training.sizing.profile import (
    MIB,
    Bucket,
    Speech,
    profile_machine,
)

CHANGES_NO_OUTPUT = True

SHARE = {"cuda": 0.9, "cpu": 0.65}
"""Of the free memory. A C library's allocator holds holes between steps of different lengths, up to
half as much again as one step takes; a GPU's holds few."""
NEAR = 0.25  # share of the budget from which a prediction is checked by a real step
SAFE = 0.5  # share of the budget that the second step for a line may take at the very most
ADAM_BYTES = 8  # of each parameter, taken at the first update
MORE_ROWS = 2  # the second step for a line has this part of a share, where that is safe
MEASURING_SECONDS = 10.0  # after these, times are no longer measured and lines are shared


class Planner:
    """Plans the buckets of a run by measuring.

    Args:
        config: the resolved configuration.
        prober: runs the steps.
        speech: lengths of the training utterances.
        processes: over which a batch is split.
        budget: bytes that a step may take.
    """

    def __init__(
        self, config: Config, prober: Prober, speech: Speech, processes: int, budget: float
    ) -> None:
        self.config, self.prober, self.speech = config, prober, speech
        self.processes, self.budget = processes, budget
        self.views = prober.step.head.views
        self._end = time.monotonic() + MEASURING_SECONDS
        self._rate = 0.0  # seconds a padded frame, of the last step

    def plan(self) -> list[BucketPlan] | None:
        """Plan every bucket, the longest first; None: one utterance alone does not fit."""
        found: list[BucketPlan] = []
        costs: list[StepMemory] = []
        for bucket in self.speech.buckets:
            cost = self._cost(bucket) if self._has_time(costs) else self._costliest(bucket, costs)
            if cost is None:
                return None
            costs.append(cost)
        costs = evened_out(self._seen_again(costs))
        for bucket, cost in zip(self.speech.buckets, costs, strict=True):
            # the first is the longest: it is run for real where there is time, however small
            planned = self._plan(bucket, cost, check=not found)
            if planned is None:
                return None
            found.append(planned)
        return found

    def _seen_again(self, costs: Sequence[StepMemory]) -> list[StepMemory]:
        """Measure resident memory once more, from the shortest to the longest, while there is time.

        In a process that has just begun the allocator finds room more easily than it will later;
        the mean of both counts.
        """
        again = list(costs)
        for place in reversed(range(len(costs))):
            bucket, cost = self.speech.buckets[place], costs[place]
            rows = share_of_batch(self.config, bucket.frames, self.processes)
            safe = cost.fitting(SAFE * self.budget) // (bucket.frames * self.views)
            rows = max(1, min(rows // MORE_ROWS, safe))
            if cost.held is None or not self._affordable(rows * bucket.frames * self.views):
                continue
            try:
                held = cost_through(self._run(rows, bucket), None).held or 0.0
            except MemoryError:
                continue
            again[place] = replace(cost, held=(cost.held + held) / 2)
        return again

    def _has_time(self, costs: Sequence[StepMemory]) -> bool:
        """Whether a bucket may have lines of its own: the longest in any case."""
        return not costs or time.monotonic() < self._end

    def _costliest(self, bucket: Bucket, costs: Sequence[StepMemory]) -> StepMemory:
        """What the bucket takes at the most, of lines that other buckets have."""
        rows = share_of_batch(self.config, bucket.frames, self.processes)
        return max(costs, key=lambda cost: cost.at(rows * bucket.frames * self.views))

    def _cost(self, bucket: Bucket) -> StepMemory | None:
        """Memory from a step of one utterance and one of more; None: one does not fit."""
        try:
            first = self._run(1, bucket)
        except MemoryError:
            return None
        rows = share_of_batch(self.config, bucket.frames, self.processes) // MORE_ROWS
        safe = int(SAFE * self.budget / max(first.peak, 1.0))
        try:
            return cost_through(first, self._run(max(2, min(rows, safe)), bucket))
        except MemoryError:
            return cost_through(first, None)

    def _plan(self, bucket: Bucket, cost: StepMemory, check: bool) -> BucketPlan | None:
        rows = share_of_batch(self.config, bucket.frames, self.processes)
        row_frames = bucket.frames * self.views
        size = min(rows, cost.fitting(self.budget) // row_frames)
        near = size < rows or cost.at(size * row_frames) > NEAR * self.budget
        probe: Probe | None = None
        if near or (check and self._affordable(size * row_frames)):
            size, probe = self._verified(size, bucket)
        timed = None
        if size and self._affordable(size * row_frames):
            try:
                timed = self._run(size, bucket, count=False)
            except MemoryError:
                size, probe = self._verified(size // 2, bucket)
        if size < 1:
            return None
        return self._bucket_plan(bucket, cost, rows, size, probe, timed)

    def _verified(self, rows: int, bucket: Bucket) -> tuple[int, Probe | None]:
        return largest_fitting(lambda n: self._run(n, bucket), rows, self.budget)

    def _bucket_plan(
        self,
        bucket: Bucket,
        cost: StepMemory,
        rows: int,
        size: int,
        probe: Probe | None,
        timed: Probe | None,
    ) -> BucketPlan:
        pieces, frames = -(-rows // size), size * bucket.frames * self.views
        seconds = timed.seconds * rows / size if timed else None
        audio = rows * bucket.frames * self.config.features.frame_shift_ms / 1000.0
        resident = cost.resident
        return BucketPlan(
            **asdict(bucket),
            rows=rows,
            micro_rows=size,
            micro_batches=pieces,
            tensor_kib_per_frame=round(cost.tensors.slope / 1024, 3),
            resident_kib_per_frame=round(resident.slope / 1024, 3) if resident else None,
            predicted_tensor_mib=round(cost.tensors.at(frames) / MIB, 2),
            tensor_mib=probe.tensor_mib if probe else None,
            predicted_resident_mib=round(resident.at(frames) / MIB, 2) if resident else None,
            resident_mib=probe.resident_mib if probe else None,
            seconds=None if seconds is None else round(seconds, 4),
            audio_hours_per_hour=round(audio * self.processes / seconds, 1) if seconds else None,
        )

    def _run(self, rows: int, bucket: Bucket, count: bool = True) -> Probe:
        probe = self.prober.run(rows, bucket, count)
        self._rate = probe.seconds / probe.padded_frames
        return probe

    def _affordable(self, frames: int) -> bool:
        """Whether there is time for a step of so many padded frames."""
        return time.monotonic() + self._rate * frames < self._end


def share_of_batch(config: Config, frames: int, processes: int) -> int:
    """Utterances of ``frames`` frames in one process's share of a global batch."""
    whole = config.train.max_duration * 1000.0 / config.features.frame_shift_ms
    return max(1, math.ceil(int(whole / frames) / processes))


def describe_model(step: GradientStep) -> dict[str, Any]:
    """Parameters and what training holds for them, in MiB."""
    trained = count_parameters(step.model)
    return {
        "parameters": sum(p.numel() for p in step.model.parameters()),
        "trained_parameters": trained,
        "weights_gradients_and_optimizer_mib": round((8 + ADAM_BYTES) * trained / MIB, 2),
        "views": step.head.views,
    }


def make_plan(
    config: Config,
    step: GradientStep,
    speech: Speech,
    free: int,
    loading: float | None = None,
) -> Plan:
    """Measure with real steps and plan; weights, buffers and gradients stay as they are.

    Args:
        config: the resolved configuration.
        step: the training step, on its device.
        speech: lengths of the training utterances.
        free: bytes that the process may still take.
        loading: seconds to load a batch; None: not measured.

    Raises:
        TrainingError: one utterance alone does not fit.
    """
    start, world = time.monotonic(), step.world
    machine, model = profile_machine(world.device), describe_model(step)
    budget = SHARE[world.device.type] * (free - ADAM_BYTES * step.flat.gradients.numel())
    prober = Prober(step, config.features.num_mel_bins, config.seed)
    planner = Planner(config, prober, speech, world.world_size, budget)
    buckets, checkpointing = plan_buckets(planner, config)
    middle = speech.buckets[len(speech.buckets) // 2]
    precision = time_precisions(config.train.precision, prober, middle)
    if dtype_of(precision["used"]) is not step.precision:
        step.precision = dtype_of(precision["used"])
        buckets, checkpointing = plan_buckets(planner, config)
    return Plan(
        written_for=plan_keys(config, machine, model, speech, world.world_size),
        machine=machine.to_json(),
        model=model,
        speech=speech.to_json(),
        memory={"free_mib": round(free / MIB, 1), "budget_mib": round(budget / MIB, 1)},
        grad_checkpoint=checkpointing,
        precision=precision,
        loading=plan_loading(config, world, loading, buckets),
        buckets=tuple(buckets),
        probes=tuple(asdict(probe) for probe in prober.probes),
        seconds=round(time.monotonic() - start, 2),
    )


def plan_buckets(planner: Planner, config: Config) -> tuple[list[BucketPlan], dict[str, Any]]:
    """Plan with whole activations, and where these do not fit also with recomputed ones.

    Recomputing is taken where nothing else fits, or where its larger micro-batches were measured
    to be faster.

    Raises:
        TrainingError: one utterance alone does not fit.
    """
    model, asked = planner.prober.step.model, config.model.grad_checkpoint
    kept = planner.plan()
    about: dict[str, Any] = {"asked": asked, "used": asked, "why": "model.grad_checkpoint"}
    if kept is not None and (asked or all(b.micro_batches == 1 for b in kept)):
        return kept, about if asked else {**about, "why": "batches fit whole without it"}
    again = None
    if not asked and set_checkpointing(model, True):
        again = planner.plan()
        set_checkpointing(model, False)
    if again is not None and kept is None:
        return again, {**about, "used": True, "why": "one utterance alone does not fit without it"}
    if kept is None:
        raise TrainingError(_too_long(planner, asked))
    if again is None or not _faster(again, kept):
        return kept, {**about, "why": "cut batches are no slower without it"}
    return again, {**about, "used": True, "why": "larger micro-batches are faster"}


def _too_long(planner: Planner, asked: bool) -> str:
    longest = planner.speech.buckets[0]
    most = max((p.peak for p in planner.prober.probes), default=0.0) / MIB
    return (
        f"one utterance of {longest.frames} frames does not fit: {planner.budget / MIB:.0f} MiB are "
        f"to be had, steps of one or two took up to {most:.0f} MiB; lower features.max_duration"
        + ("" if asked else ", set model.grad_checkpoint=true")
        + ", or raise train.memory_mib"
    )


def _faster(ours: Sequence[BucketPlan], theirs: Sequence[BucketPlan]) -> bool:
    """Whether ``ours`` takes less time where both were measured, by more than chance."""
    pairs = [(a.seconds, b.seconds) for a, b in zip(ours, theirs, strict=True)]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return bool(known) and sum(a for a, _ in known) < 0.95 * sum(b for _, b in known)


def set_checkpointing(model: torch.nn.Module, on: bool) -> bool:
    """Recompute blocks in the backward pass, or not; returns whether the model can do that."""
    encoder = getattr(model, "encoder", None)
    if not hasattr(encoder, "grad_checkpoint"):
        return False
    encoder.grad_checkpoint = on  # type: ignore[union-attr]
    return True


def plan_loading(
    config: Config, world: World, loading: float | None, buckets: Sequence[BucketPlan]
) -> dict[str, Any]:
    """Loader processes: what ``train.num_workers`` says, else by the times of loading and computing.

    A thread of the training process reads ahead by itself. Where that has less than half of a
    step's time to spare, worker processes share the work; a GPU has one in any case.
    """
    known = [b.seconds for b in buckets if b.seconds is not None]
    step = sum(known) / len(known) if known else None
    about = {"seconds_to_load": loading, "seconds_of_a_step": step and round(step, 4)}
    gpu = world.device.type == "cuda"
    if config.train.num_workers >= 0:
        return {"workers": config.train.num_workers, "why": "train.num_workers", **about}
    spare = max(1, available_cores() // world.local_world_size - 1)
    if loading is None or step is None:
        return {"workers": min(MOST_WORKERS, spare) if gpu else 0, "why": "not measured", **about}
    needed = math.ceil(2.0 * loading / step) if loading > 0.5 * step else 0
    return {"workers": min(MOST_WORKERS, spare, max(needed, gpu)), "why": "measured", **about}
