"""Gradients of one optimiser step, over all processes, in smaller chunks where memory runs out.

Every process works out its own gradients without talking to the others, so that a retry in one of
them cannot stop the rest; then one collective sums gradients, counts and requests. Losses are
summed over utterances and divided by the frames of the whole global batch, so the same global
batch gives the same gradient for any number of processes, chunks or accumulated batches.

Shapes: N batch, T frames, F features, V vocabulary.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lmu_asr.data.batch import Batch
from lmu_asr.models.head import Head, Targets
from lmu_asr.training.loop.optim import FlatGradients
from lmu_asr.training.parallel.processes import World


@dataclass(frozen=True)
class TrainBatch:
    """One process's share of a global batch, with its targets and one or two augmented views."""

    views: tuple[Tensor, ...]  # each (N, T, F) float32
    feature_lens: Tensor  # (N,) int64
    targets: list[list[int]]
    ids: list[str]
    seconds: float
    texts: list[str] = field(default_factory=list)  # for losses over pronunciations

    @property
    def padded_frames(self) -> int:
        """Frames that the model computes, padding and views included."""
        return len(self.views) * self.views[0].shape[0] * self.views[0].shape[1]

    def chunks(self, frame_limit: int | None) -> Iterator[TrainBatch]:
        """Split into even chunks of at most ``frame_limit`` padded frames, one utterance at least."""
        rows = len(self.ids)
        row_frames = max(1, self.padded_frames // max(rows, 1))
        size = rows if frame_limit is None else max(1, frame_limit // row_frames)
        count = -(-rows // max(size, 1))
        for index in range(count):
            part = slice(index * rows // count, (index + 1) * rows // count)
            yield TrainBatch(
                tuple(view[part] for view in self.views),
                self.feature_lens[part],
                self.targets[part],
                self.ids[part],
                self.seconds / count,
                self.texts[part],
            )


class TrainSource(Protocol):
    """The data of a run, as one process sees it."""

    def transcripts(self) -> Iterable[str]:
        """Transcripts of the training split."""

    def count_batches(self, epoch: int) -> int:
        """Number of global batches of the epoch."""

    def train_batches(self, epoch: int, start_batch: int) -> Iterable[TrainBatch]:
        """This process's share of each global batch of the epoch from ``start_batch`` on."""

    def dev_batches(self) -> Iterable[Batch]:
        """Batches of the development split, the same in every process."""


@dataclass
class StepSums:
    """Sums over all processes that travel with the gradients; all are whole or small numbers."""

    frames: float = 0.0
    loss: float = 0.0
    bad: float = 0.0
    seconds: float = 0.0
    real_frames: float = 0.0
    padded_frames: float = 0.0
    out_of_memory: float = 0.0
    hopeless: float = 0.0
    save: float = 0.0
    stop: float = 0.0


SLOTS = len(fields(StepSums))
FRAMES, LOSS, BAD = 0, 1, 2


class GradientStep:
    """Forward, loss and backward of the batches of one step, and the collective after them.

    Args:
        model: ``(features (views * N, T, F), lens, targets of N) -> (losses (N,), outputs, lens)``.
        world: the processes of the run.
        precision: autocast type, or None for float32.
        reseed: called before each try, so that a retry draws the same random numbers.

    Attributes:
        together: whether a pass is a collective, so that all processes run the same number of them.
    """

    together = False

    def __init__(
        self,
        model: nn.Module,
        world: World,
        precision: torch.dtype | None,
        reseed: Callable[[], None],
    ) -> None:
        self.model, self.head = model, cast(Head, model.head)
        self.world = world
        self.precision = precision
        self.reseed = reseed
        self.flat = self._make_gradients()
        self.limits: Sequence[tuple[int, int]] = ()  # longest frames, frames at once
        self.frame_limit: int | None = None  # found when memory ran out
        self.thrashed = 0
        self.losses: list[tuple[list[str], Tensor]] = []
        self.bins = 0

    def run(
        self, batches: Sequence[TrainBatch], scale: float, save: bool = False, stop: bool = False
    ) -> StepSums:
        """Leave the summed gradients of ``batches`` in :attr:`flat`, times ``scale``.

        ``save`` and ``stop`` are requests that any process may make and all hear. ``hopeless`` in
        the sums says that some process cannot fit a single utterance.
        """
        failures, hopeless = self._local(batches, scale)
        host = StepSums(
            seconds=sum(batch.seconds for batch in batches),
            real_frames=sum(int(b.feature_lens.sum()) * len(b.views) for b in batches),
            padded_frames=sum(batch.padded_frames for batch in batches),
            out_of_memory=failures,
            hopeless=hopeless,
            save=save,
            stop=stop,
        )
        values = [float(getattr(host, f.name)) for f in fields(host)]
        # added, since the passes have put frames, losses and bad utterances there already
        self.flat.extra.add_(torch.tensor(values).to(self.flat.extra.device))
        self.world.all_reduce(self.flat.buffer)
        # one copy for all counts, which makes the CPU wait for the device once
        return StepSums(*self.flat.extra.tolist())

    def _local(self, batches: Sequence[TrainBatch], scale: float) -> tuple[int, bool]:
        """Gradients of this process; returns how often memory ran out, and whether to give up."""
        limit, failures = self.frame_limit, 0
        while True:
            problem = self._try(batches, limit, scale)
            if problem is None:
                break
            failures += 1
            parts = [part for batch in batches for part in self._parts(batch, limit)]
            self._free()
            if all(len(part.ids) == 1 for part in parts):
                logging.error(
                    "out of memory with a single utterance (%s): %s", parts[0].ids, problem
                )
                # the others sum this process's gradients all the same: nothing half done may be in it
                self.flat.zero()
                return failures, True
            # a single utterance cannot be split, so half of the largest chunk that can
            limit = max(part.padded_frames for part in parts if len(part.ids) > 1) // 2
            logging.warning(
                "rank %d: out of memory in a step of %d utterances; the same batch again in chunks "
                "of at most %d frames (%s)",
                self.world.rank,
                sum(len(batch.ids) for batch in batches),
                limit,
                problem,
            )
        self._note(failures > 0, limit)
        return failures, False

    def _try(self, batches: Sequence[TrainBatch], limit: int | None, scale: float) -> str | None:
        """One try; returns what ran out, or None. The exception is gone when this returns."""
        self.flat.zero()
        self.losses = []
        self.reseed()
        try:
            self._passes(batches, limit, scale)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return (str(error).splitlines() or [type(error).__name__])[0][:160]
        return None

    def _passes(self, batches: Sequence[TrainBatch], limit: int | None, scale: float) -> None:
        for batch in batches:
            for part in self._parts(batch, limit):
                self._backward(part, scale)

    def _parts(self, batch: TrainBatch, limit: int | None) -> Iterator[TrainBatch]:
        """Chunks within ``limit`` and within what the plan allows for utterances of that length."""
        longest = batch.views[0].shape[1]
        planned = next((most for frames, most in self.limits if longest <= frames), None)
        # longer than any utterance of the plan: as the longest
        if planned is None and self.limits:
            planned = self.limits[-1][1]
        # 0 in a plan means no limit, as None does
        return batch.chunks(min(filter(None, (limit, planned)), default=None))

    def _backward(self, part: TrainBatch, scale: float) -> None:
        device = self.world.device
        views = part.views[0] if len(part.views) == 1 else torch.cat(part.views)
        lens = part.feature_lens.repeat(len(part.views))
        features = views.to(device, non_blocking=True)  # (N, T, F)
        with torch.autocast(device.type, self.precision, enabled=self.precision is not None):
            targets = Targets(part.targets, part.texts)
            losses, _, out_lens = self.model(features, lens.to(device, non_blocking=True), targets)
        # a sum: the frames of the whole global batch divide it, which only all processes know
        self._differentiate(losses.sum() * scale)
        # else the list would keep the graph of every chunk alive
        losses = losses.detach()
        self.losses.append((part.ids, losses))
        # counts stay on the device, so that no copy makes the CPU wait; frames of one view
        self.flat.extra[FRAMES] += out_lens[: len(part.ids)].sum()
        self.flat.extra[LOSS] += losses.sum()
        self.flat.extra[BAD] += (~torch.isfinite(losses)).sum()

    def _differentiate(self, loss: Tensor) -> None:
        loss.backward()

    def _free(self) -> None:
        self.losses = []
        gc.collect()
        if self.world.device.type == "cuda":
            # the retry needs blocks of other sizes than those that the allocator keeps
            torch.cuda.empty_cache()

    def _note(self, failed: bool, limit: int | None) -> None:
        self.thrashed = self.thrashed + 1 if failed else 0
        if self.thrashed >= 2:
            self.frame_limit, self.thrashed = limit, 0
            logging.warning(
                "rank %d: two steps in a row ran out of memory: chunks of at most %s frames from "
                "now on; a smaller train.max_duration avoids the retries",
                self.world.rank,
                limit,
            )

    def probe(self, batch: TrainBatch) -> None:
        """Compute a batch whole, for its memory alone; no gradient stays.

        Raises:
            MemoryError: it does not fit.
        """
        # the plan's own limits would split what is to be measured whole
        limits, self.limits = self.limits, ()
        problem = self._try([batch], None, 1.0)
        self.limits, self.losses = limits, []
        self.flat.zero()
        if problem is not None:
            self._free()
            raise MemoryError(problem)

    def bad_utterances(self) -> list[tuple[str, float]]:
        """Ids and losses of this process's utterances with an infinite or undefined loss."""
        rows = ((i, v) for ids, losses in self.losses for i, v in zip(ids, losses.tolist()))  # noqa: B905
        return [(name, value) for name, value in rows if not abs(value) < float("inf")]

    def utterances(self) -> list[str]:
        """Ids of this process's utterances of the last step."""
        return [name for ids, _ in self.losses for name in ids]

    def _make_gradients(self) -> FlatGradients:
        return FlatGradients(self.model.parameters(), SLOTS)


OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "could not create a memory",
    "failed to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out, on a GPU or a CPU."""
    # on a CPU torch and oneDNN raise a plain RuntimeError, so the words must tell
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return any(phrase in str(error).lower() for phrase in OUT_OF_MEMORY)
