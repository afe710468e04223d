"""Memory as made-up trees of /proc and /sys tell it: the machine's, and that of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmu_asr.host_memory import HostMemory, host_memory

MEMINFO = "MemTotal:       8000 kB\nMemFree:  1 kB\nMemAvailable:   6000 kB\nHugePages_Total:  0\n"
MACHINE = HostMemory(8000 * 1024, 6000 * 1024)
HALF = 4000 * 1024
UNLIMITED = 9223372036854771712  # what version 1 has for no limit
V1_GROUPS = "12:cpu,cpuacct:/a\n5:memory:/a/b\n1:name=systemd:/a\n"


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A machine of 8,000 KiB; ``files`` lie below /sys/fs/cgroup."""
    texts = {"proc/meminfo": MEMINFO, "proc/self/cgroup": groups}
    for name, text in (texts | {f"sys/fs/cgroup/{n}": t for n, t in files.items()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(where: str, limit: int | str, used: int, inactive: int = 0) -> dict[str, str]:
    """Files of a group of version 2."""
    return {
        f"{where}memory.max": f"{limit}\n",
        f"{where}memory.current": f"{used}\n",
        f"{where}memory.stat": f"anon 5\ninactive_file {inactive}\n",
    }


def v1(where: str, limit: int, used: int, inactive: int = 0) -> dict[str, str]:
    """Files of a group of version 1; its own and the total with its children differ."""
    return {
        f"memory/{where}memory.limit_in_bytes": f"{limit}\n",
        f"memory/{where}memory.usage_in_bytes": f"{used}\n",
        f"memory/{where}memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive}\n",
    }


@pytest.mark.parametrize(
    ("groups", "files", "want"),
    [
        ("", {}, MACHINE),
        ("0::/\n", v2("", "max", 77), MACHINE),
        ("0::/\n", v2("", HALF, 1000, 400), (HALF, HALF - 600)),
        ("0::/a/b\n", v2("a/b/", HALF, 1000), (HALF, HALF - 1000)),
        ("0::/a/b\n", v2("a/", HALF, 1000) | v2("a/b/", "max", 500), (HALF, HALF - 1000)),
        ("0::/not/mounted/here\n", v2("", HALF, 1000), (HALF, HALF - 1000)),
        ("0::/\n", v2("", HALF, HALF + 9), (HALF, 0)),
        ("0::/\n", v2("", 10 * HALF, 10 * HALF - 5), (MACHINE.total, 5)),
        ("0::/\n", v2("", "broken", 5), MACHINE),
        (V1_GROUPS, v1("a/b/", HALF, 1000, 400), (HALF, HALF - 600)),
        (V1_GROUPS, v1("a/b/", UNLIMITED, 1000) | v1("", HALF, 2000), (HALF, HALF - 2000)),
        (V1_GROUPS + "0::/\n", v1("", HALF, 7), (HALF, HALF - 7)),
    ],
)
def test_the_least_limit_holds(
    tmp_path: Path, groups: str, files: dict[str, str], want: tuple[int, int]
) -> None:
    assert host_memory(tree(tmp_path, groups, files)) == want


def test_no_proc_at_all(tmp_path: Path) -> None:
    total, available = host_memory(tmp_path)
    assert 0 < available == total


def test_this_machine() -> None:
    total, available = host_memory()
    assert 1 << 20 < available < total < 1 << 50
