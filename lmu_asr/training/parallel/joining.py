"""How the processes of a run find each other, and how long they wait for one that does not come.

They meet in a store before the group is made: a process that died on its way is then named within
minutes, and one that a launcher has started again is noticed at once, where making the group would
wait for as long as a collective may take.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from lmu_asr.errors import TrainingError
from lmu_asr.guard import die_with_parent
from lmu_asr.training.launch.options import STORE_FILE
from lmu_asr.training.parallel.processes import (
    World,
    current_world,
    env_number,
    named_failure,
)

COLLECTIVE = timedelta(minutes=30)  # rank 0 may write, read or measure for long before it answers
POLL_SECONDS = 0.2


@contextlib.contextmanager
def joined_world(prefer_gpu: bool = True, minutes: float = 5.0) -> Iterator[World]:
    """Join the processes of the run (or take the group that a launcher has made) and leave at the end.

    Args:
        prefer_gpu: compute on a GPU where there is one.
        minutes: to wait for the others (``train.join_minutes``).

    Raises:
        TrainingError: another process does not come, or was started again.
    """
    world = current_world(prefer_gpu)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # an agent of torchrun that is killed leaves its processes behind
        die_with_parent()
    own = world.world_size > 1 and not dist.is_initialized()
    if own:
        _join(world, timedelta(minutes=minutes))
    try:
        yield world
    finally:
        if own:
            dist.destroy_process_group()


def _join(world: World, patience: timedelta) -> None:
    attempt = env_number("TORCHELASTIC_RESTART_COUNT", 0)
    with named_failure(world.rank):
        store = _open_store(world, patience)
        _meet(world, store, attempt, patience)
        # torchrun keeps one store over restarts: addresses of those that have died stay in it
        own = dist.PrefixStore(f"attempt-{attempt}", store)
        set_timeout = getattr(dist.distributed_c10d, "_set_pg_timeout", None)  # from torch 2.1
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        # short while the group is made, where only a dead process is late
        first = patience if set_timeout else COLLECTIVE
        dist.init_process_group(backend, None, first, world.world_size, world.rank, own)
        if set_timeout:
            set_timeout(COLLECTIVE)


def _open_store(world: World, patience: timedelta) -> dist.Store:
    """A file where all processes are of this machine; else torchrun's store, or one that rank 0 keeps."""
    path = os.environ.get(STORE_FILE)
    if path:
        file_store = dist.FileStore(path, -1)  # -1: no process removes it, the launcher does
        file_store.set_timeout(patience)
        return file_store
    address, port = os.environ.get("MASTER_ADDR"), env_number("MASTER_PORT", 0)
    if not address or not port:
        raise TrainingError(
            f"WORLD_SIZE={world.world_size}, but MASTER_ADDR or MASTER_PORT is missing: launch "
            "with torchrun"
        )
    keeps = world.is_main and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return dist.TCPStore(address, port, is_master=keeps, timeout=patience, wait_for_workers=False)


def _meet(world: World, store: dist.Store, attempt: int, patience: timedelta) -> None:
    """Wait until all processes of this attempt have come to the store.

    One that was started again waits twice as long: the patience of the others may have to run out
    first.

    Raises:
        TrainingError: some did not come, or are in a later attempt already.
    """
    store.add(f"here-{attempt}-{world.rank}", 1)
    count = store.add(f"count-{attempt}", 1)
    minutes = patience.total_seconds() / 60 * (2 if attempt else 1)
    deadline = time.monotonic() + 60 * minutes
    while count < world.world_size:
        # adding 0 reads a counter at once, where get would wait for it to exist
        if store.add(f"count-{attempt + 1}", 0):
            raise TrainingError(
                f"rank {world.rank}: another process has died and was started again before all had joined"
            )
        if time.monotonic() > deadline:
            raise TrainingError(_missing(world, store, attempt, minutes))
        time.sleep(POLL_SECONDS)
        count = store.add(f"count-{attempt}", 0)


def _missing(world: World, store: dist.Store, attempt: int, minutes: float) -> str:
    absent = [
        str(rank) for rank in range(world.world_size) if not store.add(f"here-{attempt}-{rank}", 0)
    ]
    return (
        f"rank {world.rank}: rank {', '.join(absent[:8])} of {world.world_size} did not join within "
        f"{minutes:g} minutes: see why in its own output, or wait longer with train.join_minutes"
    )
