"""Sized by measurement: how many padded frames one forward and backward pass may hold.

Real steps on synthetic features at the longest utterance, with the densest labels, give the memory
that does not grow with the batch and the bytes of one padded frame. From them follows how much
fits into 0.9 of the free memory; the largest batch that training will see is then run once, if
it comes anywhere near. A batch beyond the limit is computed in chunks with an equal gradient, so a
plan never changes what is learnt, only what fits.

Shapes: N rows (utterances times views), T frames, F features.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import yaml

from lmu_asr.config import Config
from lmu_asr.errors import TrainingError
from lmu_asr.files import atomic_write_text, fingerprint
from lmu_asr.training.distributed import World
from lmu_asr.training.profile import (
    Machine,
    Speech,
    TensorMemory,
    can_measure,
    free_bytes,
    profile_machine,
    profile_speech,
)
from lmu_asr.training.state import seed_everything
from lmu_asr.training.step import GradientStep, TrainBatch

SHARE = 0.9  # of the free memory
NEAR = 0.25  # share of the free memory from which a prediction is checked by a real step
MIB = 2**20
ADAM_BYTES = 8  # of each parameter, taken at the first update


class Lengths(Protocol):
    """Knows the training utterances."""

    def lengths(self) -> list[tuple[int, int]]:
        """Frames of features and number of tokens of each."""


@dataclass(frozen=True)
class Probe:
    """One measured step: utterances, their frames, and all frames computed, views included."""

    rows: int
    frames: int
    padded_frames: int
    peak_mib: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What was measured and what follows; ``frame_limit`` 0 means that every batch fits whole."""

    key: str
    machine: dict[str, Any]
    speech: dict[str, Any]
    free_mib: float
    fixed_mib: float
    bytes_per_frame: float
    frame_limit: int
    largest_batch_frames: int
    predicted_peak_mib: float
    measured_peak_mib: float | None
    probes: list[dict[str, Any]]

    def summary(self) -> str:
        """One line of what was found."""
        fits = f"split at {self.frame_limit} frames" if self.frame_limit else "fits whole"
        return (
            f"memory: {self.fixed_mib:.0f} MiB and {self.bytes_per_frame / 1024:.1f} KiB a frame, "
            f"{self.free_mib:.0f} MiB free; the largest batch ({self.largest_batch_frames} frames, "
            f"{self.predicted_peak_mib:.0f} MiB) {fits}"
        )

    def save(self, path: Path) -> None:
        """Write as YAML, atomically."""
        atomic_write_text(path, yaml.safe_dump(asdict(self), sort_keys=False))

    @classmethod
    def load(cls, path: Path, key: str) -> Plan | None:
        """Read a plan; None, with a line, where it is of other hardware, model or data."""
        if not path.is_file():
            return None
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("key") != key:
            logging.info("%s is of other hardware, data or another model: measuring again", path)
            return None
        return cls(**values)


def plan_key(config: Config, machine: Machine, speech: Speech, processes: int) -> str:
    """Fingerprint of everything that a plan depends on."""
    train = config.train
    parts = [config.section("model"), config.features.num_mel_bins, machine.to_json()]
    parts += [speech.to_json(), processes, train.max_duration, train.precision, train.cr_ctc]
    return fingerprint(parts)


def make_plan(
    config: Config, step: GradientStep, speech: Speech, world: World, free: int | None = None
) -> Plan:
    """Measure with real steps and plan; the model's weights stay as they are.

    Args:
        config: the resolved configuration.
        step: the training step, on its device.
        speech: lengths of the training utterances.
        world: the processes of the run.
        free: bytes to plan with; None: what is free now.

    Raises:
        TrainingError: the longest utterance alone does not fit.
    """
    machine = profile_machine(world.device)
    free = free_bytes(world.device, world.local_world_size) if free is None else free
    row_frames = speech.frames["max"] * step.loss.views
    prober = _Prober(config, step, speech, world)
    probes = [prober.run(rows) for rows in (1, 2)]
    fixed, slope = _line(probes)
    free -= ADAM_BYTES * step.flat.gradients.numel()
    largest = _largest_share(config, speech.frames["max"], world.world_size) * row_frames
    limit, checked = min(_fit(fixed, slope, free), largest), None
    if fixed + slope * limit > NEAR * free:
        limit, checked = _check(prober, limit // row_frames, free)
        limit *= row_frames
    if limit < row_frames:
        raise TrainingError(
            f"one utterance of {speech.frames['max']} frames needs "
            f"{(fixed + slope * row_frames) / MIB:.0f} MiB, {SHARE * free / MIB:.0f} MiB are to be "
            "had: lower features.max_duration, or set model.grad_checkpoint=true"
        )
    at = checked.padded_frames if checked else limit
    return Plan(
        key=plan_key(config, machine, speech, world.world_size),
        machine=machine.to_json(),
        speech=speech.to_json(),
        free_mib=free / MIB,
        fixed_mib=fixed / MIB,
        bytes_per_frame=slope,
        frame_limit=0 if limit >= largest else limit,
        largest_batch_frames=largest,
        predicted_peak_mib=(fixed + slope * at) / MIB,
        measured_peak_mib=checked.peak_mib if checked else None,
        probes=[asdict(probe) for probe in [*probes, *([checked] if checked else [])]],
    )


class _Prober:
    """Runs steps on synthetic features and measures them."""

    def __init__(self, config: Config, step: GradientStep, speech: Speech, world: World) -> None:
        self.bins = config.features.num_mel_bins
        self.seed = config.seed
        self.step, self.speech, self.world = step, speech, world

    def run(self, rows: int) -> Probe:
        """Measure one step of ``rows`` utterances of the longest length.

        Raises:
            MemoryError: it does not fit.
        """
        batch = self._batch(rows, self.speech.frames["max"])
        start = time.monotonic()
        peak = self._peak(batch) / MIB
        seconds = round(time.monotonic() - start, 4)
        return Probe(rows, self.speech.frames["max"], batch.padded_frames, peak, seconds)

    def _batch(self, rows: int, frames: int) -> TrainBatch:
        generator = torch.Generator().manual_seed(self.seed)
        size = (rows, frames, self.bins)
        views = [torch.randn(size, generator=generator) for _ in range(self.step.loss.views)]
        tokens = max(1, min(self.speech.max_tokens, int(self.speech.tokens_per_frame * frames)))
        targets = [[1 + place % 2 for place in range(tokens)]] * rows
        names = [f"probe-{row}" for row in range(rows)]
        return TrainBatch(tuple(views), torch.full((rows,), frames), targets, names, 0.0)

    def _peak(self, batch: TrainBatch) -> int:
        """Bytes above what is in use before: the step's activations and scratch tensors."""
        seed_everything(self.seed, "autoconf")
        device, buffers = self.world.device, list(self.step.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        try:
            return self._measure(batch, device)
        finally:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)  # running statistics do not learn from noise

    def _measure(self, batch: TrainBatch, device: torch.device) -> int:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.step.probe(batch)
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - before
        with TensorMemory() as memory:
            self.step.probe(batch)
        return memory.peak


def _line(probes: Sequence[Probe]) -> tuple[float, float]:
    """Bytes that do not grow with the batch, and bytes of one padded frame."""
    first, second = probes
    slope = (second.peak_mib - first.peak_mib) * MIB / (second.padded_frames - first.padded_frames)
    slope = max(slope, 1.0)
    return max(0.0, first.peak_mib * MIB - slope * first.padded_frames), slope


def _largest_share(config: Config, longest: int, processes: int) -> int:
    """Utterances of the longest length in one process's share of a global batch."""
    frames = config.train.max_duration * 1000.0 / config.features.frame_shift_ms
    return max(1, math.ceil(int(frames / longest) / processes))


def _fit(fixed: float, slope: float, free: int) -> int:
    return max(0, int((SHARE * free - fixed) / slope))


def _check(prober: _Prober, rows: int, free: int) -> tuple[int, Probe | None]:
    """Run ``rows`` utterances for real, fewer while they do not fit; returns how many did."""
    while rows >= 1:
        try:
            probe = prober.run(rows)
        except MemoryError:
            rows //= 2
            continue
        if probe.peak_mib * MIB <= SHARE * free:
            return rows, probe
        rows = min(rows - 1, int(rows * SHARE * free / (probe.peak_mib * MIB)))
    return 0, None


class Sizing:
    """The plan of a run: read where it holds, else measured and written to ``autoconf.yaml``.

    Args:
        config: the resolved configuration; ``train.frame_limit`` overrides what is measured.
        source: has ``lengths()``, the frames and tokens of every training utterance.
        exp_dir: where rank 0 writes.
        world: the processes of the run.
    """

    def __init__(self, config: Config, source: Lengths, exp_dir: Path, world: World) -> None:
        self.config, self.source, self.world = config, source, world
        self.path = Path(exp_dir) / "autoconf.yaml"

    def __call__(self, step: GradientStep) -> int | None:
        """Padded frames to compute at once, the same in every process; None: any batch fits."""
        if self.config.train.frame_limit:
            return self.config.train.frame_limit
        if not self.config.train.autoconf or not can_measure(self.world.device):
            return None
        if step.loss.graph is not None:
            return None  # its memory follows the transcripts' words, which probes have not
        speech = profile_speech(self.source.lengths())
        plan = self._known(speech) or self._measure(step, speech)
        limits = [limit for limit in self.world.gather(plan.frame_limit) if limit]
        return min(limits) if limits else None

    def _known(self, speech: Speech) -> Plan | None:
        """The written plan, if it is of this hardware, model and data."""
        size = self.world.world_size
        key = plan_key(self.config, profile_machine(self.world.device), speech, size)
        plan = Plan.load(self.path, key) if self.world.is_main else None
        return cast("Plan | None", self.world.broadcast(plan))

    def _measure(self, step: GradientStep, speech: Speech) -> Plan:
        plan = make_plan(self.config, step, speech, self.world)
        if self.world.is_main:
            plan.save(self.path)
            logging.info("%s", plan.summary())
        return plan
