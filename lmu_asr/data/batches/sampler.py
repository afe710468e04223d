"""Which utterances make which batch: light records of a manifest, and the sampler over them.

The global batch is formed first, by Lhotse's dynamic bucketing, and then split over the processes,
so that any number of them sees the same global batches in the same order. The order depends on
the seed and the epoch alone; resuming skips records, not features.
"""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import Sampler

from lmu_asr.errors import DataError
from lmu_asr.files import sha256_file

# what reading a damaged or foreign manifest can end in
BROKEN = (
    OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError, RecursionError,
)  # fmt: skip

SHOWN = 5
BUFFER_SIZE = 20000  # records held in buckets at any time


@dataclass(slots=True)
class CutRecord:
    """What sampling and loading need of a cut, a hundredth of its memory.

    Attributes:
        id: the cut's id.
        duration: seconds.
        num_frames: stored frames.
        text: transcript.
        storage: storage type, path and key of the features.
        dataloading_info: set by the sampler.
    """

    id: str
    duration: float
    num_frames: int
    text: str
    storage: tuple[str, str, str]
    dataloading_info: Any = None

    @property
    def supervisions(self) -> tuple[CutRecord]:
        """The one supervision, itself: it has the ``text``."""
        return (self,)


Keep = Callable[[CutRecord], "str | None"]


def read_utterances(path: Path) -> list[CutRecord]:
    """Read the records of a stored cuts manifest.

    Raises:
        DataError: the manifest is missing, cut short, or its cuts have no features.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; run stage 1 (features) first")
    folder = path.resolve().parent
    utterances: list[CutRecord] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            utterances.extend(utterance_of(json.loads(line), folder) for line in stream)
    except BROKEN as error:
        raise DataError(
            f"{path}:{len(utterances) + 1}: not a whole cuts manifest with features ({error!r}); "
            "run stage 1 (features) again"
        ) from error
    if not utterances:  # a file of no bytes is a whole compressed file
        raise DataError(f"{path}: no cuts in it; run stage 1 (features) again")
    return utterances


def utterance_of(cut: dict[str, Any], folder: Path) -> CutRecord:
    """Return the record of a stored cut; ``folder`` is where relative paths start."""
    features = cut["features"]
    storage = features["storage_type"], str(folder / features["storage_path"])
    text = " ".join(s.get("text") or "" for s in cut["supervisions"])
    frames, key = features["num_frames"], features["storage_key"]
    return CutRecord(cut["id"], cut["duration"], frames, text, (*storage, key))


def filter_utterances(utterances: list[CutRecord], keep: Keep | None, name: str) -> list[CutRecord]:
    """Leave out what ``keep`` gives a reason for, and say so in one log line.

    Raises:
        DataError: nothing is left.
    """
    reasons = {u.id: keep(u) for u in utterances} if keep else {}
    kept = [u for u in utterances if reasons.get(u.id) is None]
    describe_dropped({i: r for i, r in reasons.items() if r is not None}, len(utterances), name)
    if not kept:
        raise DataError(f"{name}: no utterance left to train on")
    return kept


def describe_dropped(reasons: Mapping[str, str], total: int, name: str) -> None:
    """Log how many utterances are left out, and the first of them with their reasons."""
    if reasons:
        first = [f"{i} ({reason})" for i, reason in list(reasons.items())[:SHOWN]]
        more = "; ..." if len(reasons) > SHOWN else ""
        shown = "; ".join(first) + more
        logging.warning("%s: %d of %d left out: %s", name, len(reasons), total, shown)


class _SamplerBase(Sampler[Any]):
    """Takes the place of torch's base, which before torch 2.0 wants an argument lhotse omits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""


class _BucketingSampler(DynamicBucketingSampler, _SamplerBase):
    """Lhotse's sampler for any torch."""


class BatchSampler:
    """Global batches of an epoch, each split over the processes.

    Args:
        utterances: records of the training split, in manifest order.
        max_duration: padded seconds of a global batch, which one longer utterance may pass.
        num_buckets: duration buckets; fewer where they would not hold two batches each.
        seed: the recipe's seed.
        fingerprint: hash of the manifest that the records come from.
        rank: this process.
        world_size: processes. Where a global batch has fewer utterances than processes, the last
            of them get an empty share.

    Attributes:
        sorted_epochs: the first epochs, whose batches come in the order of their longest utterance.
    """

    def __init__(
        self,
        utterances: Sequence[CutRecord],
        max_duration: float,
        num_buckets: int,
        seed: int,
        fingerprint: str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.utterances, self.max_duration, self.seed = utterances, max_duration, seed
        self.fingerprint, self.rank, self.world_size = fingerprint, rank, world_size
        seconds = sum(u.duration for u in utterances)
        fitting = min(num_buckets, len(utterances), int(seconds / (2.0 * max_duration)))
        self.num_buckets = max(1, fitting)
        self.epoch, self.batch = 0, 0
        self.sorted_epochs = 0
        self._counts: dict[int, int] = {}

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Go to a global batch of an epoch."""
        self.epoch, self.batch = epoch, batch

    def __len__(self) -> int:
        """Global batches of the whole epoch."""
        if self.epoch not in self._counts:
            self._counts[self.epoch] = sum(1 for _ in self._global_batches())
        return self._counts[self.epoch]

    def __iter__(self) -> Iterator[list[CutRecord]]:
        """Yield this process's share of each global batch, from the next one to the epoch's end."""
        start = self.batch
        for index, batch in enumerate(self._global_batches(start), start):
            self.batch = index + 1
            # longest first and dealt in turn, so that the processes get shares of similar length
            yield batch[self.rank :: self.world_size]

    def _global_batches(self, start: int = 0) -> Iterator[list[CutRecord]]:
        """Yield the global batches from number ``start`` on, longest utterance first."""
        batches = self._joined()
        if self.epoch < self.sorted_epochs:
            batches = iter(sorted(batches, key=lambda batch: batch[0].duration))
        return itertools.islice(batches, start, None)

    def _joined(self) -> Iterator[list[CutRecord]]:
        order = list(self.utterances)
        # a text as seed goes through SHA-512, not hash(), which differs from process to process
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        pending: list[CutRecord] = []
        for cuts in self._sampler(order):
            batch = [*pending, *cuts]
            if pending and len(batch) * max(u.duration for u in batch) > self.max_duration:
                yield _longest_first(pending)
                batch = list(cuts)
            pending = batch  # what is left in the buckets at the end is joined where it fits
        if pending:
            yield _longest_first(pending)

    def _sampler(self, order: list[CutRecord]) -> _BucketingSampler:
        # lhotse estimates bins only for two buckets or more
        bins = None if self.num_buckets > 1 else [max(u.duration for u in order) + 1.0]
        sampler = _BucketingSampler(
            order,
            max_duration=self.max_duration,
            num_buckets=self.num_buckets if bins is None else None,
            duration_bins=bins,
            shuffle=True,
            buffer_size=BUFFER_SIZE,
            seed=self.seed,
            sync_buckets=True,  # without it, lhotse 1.33 loses the rest of the buckets
            world_size=1,
            rank=0,
        )
        sampler.set_epoch(self.epoch)
        return sampler


def _longest_first(batch: Sequence[CutRecord]) -> list[CutRecord]:
    return sorted(batch, key=lambda u: (-u.duration, u.id))


def batches_by_duration(
    utterances: Sequence[CutRecord], max_duration: float
) -> Iterator[list[CutRecord]]:
    """Yield batches in the order of duration, each of at most ``max_duration`` padded seconds."""
    batch: list[CutRecord] = []
    for utterance in sorted(utterances, key=lambda u: (u.duration, u.id)):
        if batch and (len(batch) + 1) * utterance.duration > max_duration:
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch


def manifest_fingerprint(path: Path) -> str:
    """Hash of a manifest's bytes, for sampler states."""
    return sha256_file(path)
