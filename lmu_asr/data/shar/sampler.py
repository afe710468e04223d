"""Training from Lhotse Shar: shard after shard, in an order of each epoch's own, with exact resuming.

An epoch goes through its shards in windows of whole shards, some thousands of utterances each, and a
batch takes its utterances from one window. All of that is planned from the durations in an index of the
lists of cuts, so that any place of an epoch is found without reading what comes before it. While a
window is trained on, a thread makes the next one ready: it fetches archives from S3 to this machine,
or reads local ones through; each is read from its beginning to its end.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmu_asr.config import Config
from lmu_asr.data.batches.index import Index, IndexedSampler, plan_batches, write_index
from lmu_asr.data.batches.loaders import PREFETCH, FeatureSet, Loader, default_num_workers, mixers
from lmu_asr.data.batches.sampler import CutRecord, Keep
from lmu_asr.data.features.archive import file_crc
from lmu_asr.data.importing.scratch import Scratch
from lmu_asr.data.shar.files import (
    SHAR,
    Member,
    SharFolder,
    archive_name,
    member_key,
    members_of,
)
from lmu_asr.errors import DataError
from lmu_asr.progress import progress

FETCHED = "lmu-asr-shar-"  # directories of fetched archives, below the one for temporary files


@dataclass(frozen=True)
class SharSource:
    """Shards and the index of their cuts.

    Attributes:
        folder: the shards.
        index: their utterances, shard after shard; its header has ``shards``, utterances of each.
    """

    folder: SharFolder
    index: Index


def open_shar(address: str, index: Path, num_mel_bins: int) -> SharSource:
    """Open shards for training; an index of their cuts is made when there is none.

    Args:
        address: directory or ``s3://bucket/prefix`` of the shards.
        index: where the index is kept.
        num_mel_bins: features that the model wants.

    Raises:
        DataError: a shard is missing or cut short, or holds other features.
        RemoteError: the bucket cannot be read.
    """
    folder = SharFolder(address)
    folder.check_ends()
    found = _current(index, folder)
    if found is None:
        _build(folder, index)
        found = Index(index)
    if found.header["num_features"] != [num_mel_bins]:
        bins = " and ".join(map(str, found.header["num_features"]))
        raise DataError(
            f"{address}: features of {bins} bins, features.num_mel_bins is {num_mel_bins}: "
            "set that to what the shards have, or export others"
        )
    return SharSource(folder, found)


def _current(path: Path, folder: SharFolder) -> Index | None:
    if not path.is_file():
        return None
    with contextlib.suppress(DataError):
        index = Index(path)
        if index.header.get("manifest") == [folder.address, *folder.state]:
            return index
    return None


def _build(folder: SharFolder, path: Path) -> None:
    digest = hashlib.sha256()
    counts: list[int] = []
    bins: set[int] = set()

    def cuts() -> Iterator[dict[str, Any]]:
        for name in progress(folder.names, f"reading the cuts of {folder.address}", unit="shard"):
            counts.append(0)
            for cut in folder.cuts(name, digest):
                yield _stored(cut, name, counts[-1], bins, folder.address)
                counts[-1] += 1

    def header() -> dict[str, Any]:
        if not any(counts):
            raise DataError(f"{folder.address}: no utterance in {len(counts)} shards")
        return {
            "manifest": [folder.address, *folder.state],
            "sha256": digest.hexdigest(),
            "shards": counts,
            "num_features": sorted(bins),
        }

    write_index(cuts(), path, header)


def _stored(
    cut: dict[str, Any], name: str, place: int, bins: set[int], address: str
) -> dict[str, Any]:
    """Return the cut with its features' place: the archive, and its number in it."""
    if fault := _fault(cut):
        shown = f"cut '{cut['id']}'" if isinstance(cut, dict) and "id" in cut else "a line"
        raise DataError(
            f"{address}: {shown} of shard {name} has {fault} (line {place + 1}); export it with "
            "python -m lmu_asr.data.shar.export"
        )
    bins.add(cut["features"]["num_features"])
    features = {
        "num_frames": cut["features"]["num_frames"],
        "storage_type": SHAR,
        "storage_path": archive_name(name),
        "storage_key": str(place),
    }
    return {**cut, "features": features, "supervisions": cut.get("supervisions") or []}


def _fault(cut: Any) -> str | None:
    """What a line of a list lacks to be a cut with features; None: nothing."""
    if not isinstance(cut, dict) or not _is_text(cut.get("id")):
        return "no id"
    features, segments = cut.get("features"), cut.get("supervisions") or []
    if not isinstance(features, dict):
        return "no features"
    for key in ("num_frames", "num_features"):
        value = features.get(key)
        if not isinstance(value, int) or not 0 < value < 1 << 31:
            return f"no {key} of its features"
    duration = cut.get("duration")
    if not isinstance(duration, (int, float)) or not 0 < duration < 1e9:  # NaN is neither
        return "no duration"
    texts = [s.get("text") or "" for s in segments if isinstance(s, dict)]
    if (
        not isinstance(segments, list)
        or len(texts) < len(segments)
        or not all(map(_is_text, texts))
    ):
        return "supervisions that are none"
    return None


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be written: JSON may hold half a character."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


@dataclass(frozen=True)
class EpochPlan:
    """Windows and batches of an epoch.

    Attributes:
        batches: numbers of the utterances of each.
        windows: the shards of each.
        ends: number of the first batch after each window.
    """

    batches: list[NDArray[np.int64]]
    windows: list[tuple[int, ...]]
    ends: list[int]


@functools.lru_cache(maxsize=2)
def plan_epoch(
    index: Index, seed: int, epoch: int, max_duration: float, num_buckets: int, window: int
) -> EpochPlan:
    """Put shards and, within windows of them, utterances in random order, in batches by duration.

    Args:
        index: utterances by shard.
        seed, epoch: decide the order.
        max_duration: padded seconds of a batch; passed only by an utterance that is longer alone.
        num_buckets: buckets of duration; fewer where they would not hold two batches each.
        window: utterances from which a window has shards enough.
    """
    rng = np.random.default_rng([seed, epoch])
    counts = np.asarray(index.header["shards"])
    starts = np.concatenate([[0], np.cumsum(counts)])
    windows = _windows([int(s) for s in rng.permutation(len(counts)) if counts[s]], counts, window)
    batches: list[NDArray[np.int64]] = []
    ends = []
    for shards in windows:
        numbers = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in shards])
        durations = index.durations[numbers]
        planned = plan_window(durations, max_duration, num_buckets, rng)
        batches += [numbers[batch] for batch in planned]
        ends.append(len(batches))
    return EpochPlan(batches, windows, ends)


def _windows(order: Sequence[int], counts: NDArray[np.int64], window: int) -> list[tuple[int, ...]]:
    """Divide shards into windows; a small rest joins the last one."""
    windows: list[tuple[int, ...]] = []
    shards: list[int] = []
    for shard in order:
        shards.append(shard)
        if counts[shards].sum() >= window:
            windows.append(tuple(shards))
            shards = []
    if shards and windows and 2 * counts[shards].sum() < window:
        windows[-1] += tuple(shards)
    elif shards:
        windows.append(tuple(shards))
    return windows


def plan_window(
    durations: NDArray[np.float64], max_duration: float, num_buckets: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Divide a window into batches; what buckets leave over is joined where it fits."""
    fitting = max(1, min(num_buckets, int(durations.sum() / (2.0 * max_duration))))
    batches = plan_batches(durations, max_duration, fitting, rng)
    longest = [float(durations[batch].max()) for batch in batches]
    small = [2 * len(b) * most <= max_duration for b, most in zip(batches, longest, strict=True)]
    joined = [batch for batch, is_small in zip(batches, small, strict=True) if not is_small]
    pending: list[NDArray[np.int64]] = []
    for number in sorted(np.flatnonzero(small), key=lambda i: longest[i]):
        count = sum(map(len, pending)) + len(batches[number])
        if pending and count * longest[number] > max_duration:
            joined.append(np.concatenate(pending))
            pending = []
        pending.append(batches[number])
    joined += [np.concatenate(pending)] if pending else []
    return [joined[i] for i in rng.permutation(len(joined))]


class SharSampler(IndexedSampler):
    """Global batches over shards; makes the archives of a window ready before its first batch.

    Args:
        source: shards and index.
        window: utterances from which a window has shards enough.
        outstanding: batches that may not be read yet when the next one is asked for.
        keep, max_duration, num_buckets, seed, rank, world_size: as in :class:`IndexedSampler`.
    """

    def __init__(
        self,
        source: SharSource,
        keep: Keep | None,
        max_duration: float,
        num_buckets: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        window: int = 5000,
        outstanding: int = 0,
    ) -> None:
        super().__init__(source.index, keep, max_duration, num_buckets, seed, rank, world_size)
        self.source, self.window, self.outstanding = source, window, outstanding

    def _epoch_plan(self) -> EpochPlan:
        options = self.max_duration, self.num_buckets, self.window
        return plan_epoch(self.index, self.seed, self.epoch, *options)

    def _plan(self) -> list[NDArray[np.int64]]:
        return self._epoch_plan().batches

    def _global_batches(self, start: int = 0) -> Iterator[list[CutRecord]]:
        plan = self._epoch_plan()
        self.staging = Staging(self.source)  # lives on: loaders still read when this has ended
        done: deque[int] = deque()  # windows whose archives may still be read
        current = -1
        try:
            for number in range(start, len(plan.batches)):
                place = int(np.searchsorted(plan.ends, number, side="right"))
                if place != current:
                    done += [current] if current >= 0 else []
                    following = sum(plan.windows[place + 1 : place + 2], ())
                    self.staging.make_ready(plan.windows[place], following)
                    current = place
                while done and number >= plan.ends[done[0]] + self.outstanding:
                    self.staging.release(plan.windows[done.popleft()])
                batch = self._batch(plan.batches[number])
                yield [self.staging.placed(utterance) for utterance in batch]
        finally:
            self.staging.settle()


class Staging:
    """Archives that are ready to be read at any place: fetched, or read through, and checked."""

    def __init__(self, source: SharSource) -> None:
        self._source = source
        self._starts = np.concatenate([[0], np.cumsum(source.index.header["shards"])])
        self._pool = ThreadPoolExecutor(1, "shar")
        self._coming: dict[int, Future[tuple[Path, list[Member]]]] = {}
        self._members: dict[str, tuple[Path, list[Member]]] = {}
        self._fetched = FetchedFiles() if source.folder.is_remote else None

    def make_ready(self, shards: Sequence[int], following: Sequence[int]) -> None:
        """Return when all of ``shards`` are ready; begin with those that follow.

        Raises:
            DataError: an archive is cut short or holds other utterances than its list.
            RemoteError: an archive cannot be fetched.
        """
        for shard in (*shards, *following):
            if shard not in self._coming:
                self._coming[shard] = self._pool.submit(self._prepare, shard)
        for shard in shards:
            self._members[self._archive(shard)] = self._coming[shard].result()

    def placed(self, utterance: CutRecord) -> CutRecord:
        """Return the utterance with the place of its features on this machine."""
        kind, path, place = utterance.storage
        local, members = self._members[Path(path).name]
        return replace(utterance, storage=(kind, str(local), member_key(members[int(place)])))

    def release(self, shards: Sequence[int]) -> None:
        """Forget shards that nothing reads any more, and remove what was fetched of them."""
        for shard in shards:
            path, _ = self._members.pop(self._archive(shard))
            del self._coming[shard]
            if self._fetched:
                path.unlink()

    def settle(self) -> None:
        """End the thread, after the archive that it is at; what is ready stays."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _archive(self, shard: int) -> str:
        return archive_name(self._source.folder.names[shard])

    def _prepare(self, shard: int) -> tuple[Path, list[Member]]:
        file, folder = self._archive(shard), self._source.folder
        path = folder.local(file, self._fetched.folder if self._fetched else Path())
        folder.check_sum(folder.names[shard], file_crc(path))  # so that it lies in memory, too
        numbers = range(self._starts[shard], self._starts[shard + 1])
        ids = [self._source.index[number].id for number in numbers]
        return path, members_of(path, ids, f"{folder.address}/{file}")


class FetchedFiles(Scratch):
    """A directory for what is fetched."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.gettempdir()), FETCHED)


def build_shar_loader(
    source: SharSource,
    config: Config,
    keep: Keep | None = None,
    rank: int = 0,
    world_size: int = 1,
    epoch: int = 0,
    start_batch: int = 0,
) -> Loader:
    """Return this process's share of the global batches of an epoch.

    Args:
        source: shards and index.
        config: the resolved configuration; seed, train.max_duration, num_buckets, num_workers,
            shar_window.
        keep, rank, world_size, epoch, start_batch: as in
            :func:`lmu_asr.data.batches.loaders.build_train_loader`.

    Raises:
        DataError: ``train.sorted_epochs`` is asked for, which needs all utterances at once.
    """
    options = config.train
    if options.sorted_epochs:
        raise DataError(
            f"train.sorted_epochs is {options.sorted_epochs}: shards cannot be read from short to long "
            "utterances; set it to 0, or train from the archives of stage 1 (train.shar empty)"
        )
    workers = default_num_workers() if options.num_workers < 0 else options.num_workers
    sampler = SharSampler(
        source,
        keep,
        options.max_duration,
        options.num_buckets,
        config.seed,
        rank,
        world_size,
        options.shar_window,
        PREFETCH * workers,
    )
    sampler.set_epoch(epoch, start_batch)
    return Loader(sampler, FeatureSet(mixers=mixers(config, epoch)), workers)
