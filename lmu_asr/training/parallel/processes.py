"""Processes of one run: the environment that torchrun, Accelerate and Ray set, and the few collectives used.

``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE`` describe the process; without them
the run is one process. NCCL joins GPUs, gloo joins CPUs. Rank 0 alone writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lmu_asr.errors import TrainingError


@dataclass(frozen=True)
class World:
    """This process among all processes of the run."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs progress."""
        return self.rank == 0

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum ``values`` in place over all processes; every process gets the same bits."""
        if self.world_size > 1:
            with named_failure(self.rank):
                dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in any process."""
        if self.world_size == 1:
            return flag
        return bool(self.all_reduce(torch.tensor(float(flag), device=self.device)).item() > 0)

    def maximum(self, value: int) -> int:
        """The largest ``value`` of all processes."""
        if self.world_size == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        with named_failure(self.rank):
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def gather(self, obj: Any) -> list[Any]:
        """Every process's ``obj``, in the order of ranks, in every process."""
        if self.world_size == 1:
            return [obj]
        objects: list[Any] = [None] * self.world_size
        with named_failure(self.rank):
            dist.all_gather_object(objects, obj)
        return objects

    def broadcast(self, obj: Any) -> Any:
        """Rank 0's ``obj``, in every process."""
        if self.world_size == 1:
            return obj
        box = [obj]
        with named_failure(self.rank):
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world_size > 1:
            self.any(False)


@contextlib.contextmanager
def named_failure(rank: int) -> Iterator[None]:
    """Turn the failure of a collective into one line: it means that another process has gone."""
    try:
        yield
    except (RuntimeError, TimeoutError) as error:  # the latter of torch 1 and its stores
        reason = str(error).splitlines()[0][:200]
        raise TrainingError(
            f"rank {rank}: another process of the run has gone or does not answer ({reason}); the "
            "same command goes on from the last checkpoint"
        ) from error


def current_world(prefer_gpu: bool = True) -> World:
    """Describe this process from its environment, without joining the others.

    Raises:
        TrainingError: a rank outside the world, or more local processes than GPUs.
    """
    rank, size = env_number("RANK", 0), env_number("WORLD_SIZE", 1)
    local_rank, local_size = env_number("LOCAL_RANK", rank), env_number("LOCAL_WORLD_SIZE", size)
    if not 0 <= rank < size:
        raise TrainingError(f"RANK={rank} is outside WORLD_SIZE={size}: launch with torchrun")
    device = torch.device("cpu")
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if prefer_gpu and not on_cpu and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise TrainingError(
                f"LOCAL_RANK={local_rank}, but this machine has {count} GPU(s): lower --ngpu"
            )
        device = torch.device("cuda", local_rank)
    return World(rank, size, local_rank, local_size, device)


def set_threads(world: World) -> int:
    """Share the machine's cores between its processes; returns the threads of this one.

    A user's own ``OMP_NUM_THREADS`` is kept; torchrun's default of 1 is not.
    """
    if "OMP_NUM_THREADS" in os.environ and world.world_size == 1:
        return torch.get_num_threads()
    threads = max(1, available_cores() // world.local_world_size)
    torch.set_num_threads(threads)
    return threads


def available_cores() -> int:
    """Cores that this process may use: its affinity mask, and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cgroup_quota()
    return max(1, min(cores or 1, quota or cores or 1))


def _cgroup_quota() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        # without a quota the limit is "max", which is no number
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, round(int(limit) / int(period)))
    return None


def env_number(name: str, default: int) -> int:
    """Whole number in an environment variable; ``default`` where it is unset or empty.

    Raises:
        TrainingError: it is no whole number.
    """
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError as error:
        raise TrainingError(f"{name}={text}: want a whole number") from error


def log_main(world: World, message: str, *args: Any) -> None:
    """Log one line, from rank 0 alone."""
    if world.is_main:
        logging.info(message, *args)
