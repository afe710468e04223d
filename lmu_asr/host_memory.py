"""Memory that this process may still take: of the machine, and of the control groups that hold it.

A container sees the machine's ``/proc/meminfo``, but the kernel kills it at the limit of its control
group. So both are read, for versions 1 and 2 of control groups, and for every group above the own.
"""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
# version: files of the limit and of the use, and the entry of memory.stat that can be given back
FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


class HostMemory(NamedTuple):
    """Bytes of host memory."""

    total: int
    available: int


def host_memory(root: Path = ROOT) -> HostMemory:
    """Bytes that this process may have in all, and that are left to it: the least of all limits.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    found = [_machine(root)]
    for version, group in memory_groups(root):
        with contextlib.suppress(OSError, ValueError):
            found.append(_group(group, *FILES[version]))
    return HostMemory(min(m.total for m in found), min(m.available for m in found))


def _machine(root: Path) -> HostMemory:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        return HostMemory(kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024)
    except (OSError, ValueError, LookupError):  # no Linux
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return HostMemory(total, total)


def _group(group: Path, limit: str, used: str, inactive: str) -> HostMemory:
    """Limit of a group and what is left of it; ValueError where it has none (``max``)."""
    total = int((group / limit).read_text())
    taken = int((group / used).read_text())
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    taken -= int(stat.get(inactive, 0))  # pages of files that were read: the kernel takes them back
    return HostMemory(total, max(0, total - taken))


@lru_cache  # a process stays in its groups, and training asks at every step
def memory_groups(root: Path = ROOT) -> tuple[tuple[int, Path], ...]:
    """Version and directory of each control group that limits this process, the inmost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            version, base = 1, root / "sys/fs/cgroup/memory"
        elif number == "0" and not controllers:
            version, base = 2, root / "sys/fs/cgroup"
        else:
            continue
        own = base / path.strip("/")
        # a container's own tree may begin at its group, while the path is the machine's
        places = [own, *own.parents][: len(own.parts) - len(base.parts) + 1]
        found += [(version, p) for p in places if (p / FILES[version][0]).is_file()]
    return tuple(found)
