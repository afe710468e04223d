"""Searches that do not bring the machine down: a memory limit, and smaller beams when it is hit."""

from __future__ import annotations

import contextlib
import logging
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lmu_asr.errors import GraphError
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.host_memory import host_memory

T = TypeVar("T")
ATTEMPTS = 6
SHARE = 0.9


def peak_bytes() -> int:
    """Peak memory of this process alone; ``ru_maxrss`` begins with the peak of its parent (Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def memory_limit(extra: int | None = None) -> Iterator[None]:
    """Let this process grow by ``extra`` bytes at most (default: 90 % of what is available).

    Without it a search that grows too far is killed by the system; with it, it raises MemoryError.
    The limit is of the whole process and is lifted on leaving.
    """
    if extra is None:
        extra = int(host_memory().available * SHARE)
    # address space, because Linux does not enforce RLIMIT_RSS
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + extra
    if not extra or (before[0] != resource.RLIM_INFINITY and before[0] <= limit):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def with_smaller_beams(
    search: Callable[[SearchOptions], T], options: SearchOptions, extra: int | None = None
) -> T:
    """Run ``search``; where memory runs out, again with smaller beams, said in one line each.

    Args:
        search: the search, given the options to use.
        options: the options of the first attempt.
        extra: bytes that the process may grow by, 0 for no limit; see :func:`memory_limit`.

    Raises:
        GraphError: memory runs out with the smallest beams too.
    """
    attempt = options
    for _ in range(ATTEMPTS):
        try:
            with memory_limit(extra):
                return search(attempt)
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
        # outside the except block: the traceback would keep the failed attempt's arrays alive
        attempt = attempt.narrower()
        logging.warning(
            "search ran out of memory: trying again with search_beam %.2f, lattice_beam %.2f,"
            " max_active %d",
            attempt.search_beam,
            attempt.lattice_beam,
            attempt.max_active,
        )
    raise GraphError(
        f"search runs out of memory even with search_beam {attempt.search_beam:.2f}; the"
        " posteriors are too flat for this graph, or the machine too small"
    )


def is_memory_error(error: Exception) -> bool:
    """Whether ``error`` says that memory ran out, on the CPU or on a GPU."""
    # torch reports memory that ran out as RuntimeError, on the CPU as "can't allocate memory"
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "alloc" in text


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
