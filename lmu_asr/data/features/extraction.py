"""Extraction of features in shards, by one process, several, or a Ray cluster: the same bytes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import sys
import threading
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import torch

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.features.part import AHEAD, Item, Shard, Task, make_shard
from lmu_asr.data.features.ray_extraction import make_shards_on_cluster
from lmu_asr.errors import DataError
from lmu_asr.files import discard_temporaries
from lmu_asr.progress import progress

SHARDS, LEAST_SECONDS, MOST_SECONDS = 64, 300.0, 3600.0
INLINE_SECONDS = 1200.0  # less audio than this is done before other processes have started


@dataclass(frozen=True)
class ShardPlan:
    """How a split is divided.

    Attributes:
        sizes: items of each shard.
        seconds: of audio, at the items' speeds.
    """

    sizes: Sequence[int]
    seconds: float


def plan_shards(durations: Sequence[float], speeds: Sequence[float]) -> ShardPlan:
    """Divide items into shards by their seconds alone.

    Args:
        durations: seconds of each utterance; all of them come once for each speed.
        speeds: factors of playback speed.
    """
    total = sum(itertools.chain.from_iterable([durations] * len(speeds)))
    limit = min(max(total / SHARDS, LEAST_SECONDS), MOST_SECONDS)
    sizes, count, seconds = array("q"), 0, 0.0
    for duration in itertools.chain.from_iterable([durations] * len(speeds)):
        count += 1
        seconds += duration
        if seconds >= limit:
            sizes.append(count)
            count, seconds = 0, 0.0
    if count:
        sizes.append(count)
    return ShardPlan(sizes, sum(d / speed for speed in speeds for d in durations))


def extract_shards(
    items: Iterable[Item],
    plan: ShardPlan,
    split: str,
    config: FeaturesConfig,
    out_dir: Path,
    nj: int,
    on_ray: bool = False,
) -> list[Shard]:
    """Extract features of cuts at their speeds; whole shards of an earlier run are kept.

    Args:
        items: cuts without features, each with its speed factor, gone through once.
        plan: how they are divided.
        split: name of the split, the first part of the shards' names.
        config: features.
        out_dir: receives ``feats/``.
        nj: processes, each with one thread; the bytes do not depend on it.
        on_ray: the processes are those of a Ray cluster.

    Returns:
        The shards in the order of ``items``.

    Raises:
        DataError: a process was killed; a second call goes on where this one stood.
    """
    names = [f"{split}-{number:05d}" for number in range(len(plan.sizes))]
    _remove_leftovers(out_dir / "feats", split, set(names))
    remaining = iter(items)
    tasks = (
        Task(name, tuple(itertools.islice(remaining, size)), out_dir, config)
        for name, size in zip(names, plan.sizes, strict=True)
    )
    logging.info("%s: %.2f h of audio in %d shards", split, plan.seconds / 3600.0, len(names))

    def shown(shards: Iterable[Shard]) -> list[Shard]:
        return list(progress(shards, f"features of {split}", len(names), "shard"))

    if on_ray:
        return shown(make_shards_on_cluster(tasks, out_dir, nj))
    if nj <= 1 or len(names) <= 1 or plan.seconds < INLINE_SECONDS:
        with _one_thread():
            return shown(map(make_shard, tasks))
    context = multiprocessing.get_context("spawn")
    # a run that a signal ends leaves semaphores; the process that removes them need not tell the user
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        with ProcessPoolExecutor(min(nj, len(names)), context, _start_worker) as pool:
            return shown(_in_order(pool, tasks, AHEAD * nj))
    except BrokenProcessPool as error:
        raise DataError(
            f"features of {split}: a process was killed, perhaps for want of memory: "
            "run again to go on from the finished shards, with a lower --nj"
        ) from error


def _in_order(pool: ProcessPoolExecutor, tasks: Iterable[Task], ahead: int) -> Iterator[Shard]:
    """Make shards in processes, of which ``ahead`` are given out at any time."""
    coming: deque[Future[Shard]] = deque()
    try:
        for task in tasks:
            coming.append(pool.submit(make_shard, task))
            if len(coming) >= ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        # otherwise leaving the pool would first make all shards that were given out
        for future in coming:
            future.cancel()


def _remove_leftovers(folder: Path, split: str, names: set[str]) -> None:
    """Remove temporary files of a killed run and shards that the split no longer has."""
    for path in folder.glob(f".{split}-*.tmp*"):
        path.unlink()
    for path in folder.glob(f"{split}-[0-9][0-9][0-9][0-9][0-9].*"):
        if path.name.split(".")[0] not in names:
            path.unlink()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: frames are too little work for more, and it keeps the bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _start_worker() -> None:
    """Compute with one thread, and end when the parent was killed."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def follow() -> None:
            # a pool's worker whose parent was killed would wait for work for ever
            wait([sentinel])
            discard_temporaries()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
