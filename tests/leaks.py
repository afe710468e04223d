"""What a test may not leave behind: state of the process that a later test would meet."""

from __future__ import annotations

import locale
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed

PATIENCE = 60.0  # seconds: threads and children that were told to end may need a moment
# Helpers that serve the whole session: of multiprocessing, of Weights and Biases.
SERVANTS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "wandb-core")
# What libraries set for themselves when they are first used.
OF_LIBRARIES = (
    "PYTEST_CURRENT_TEST",
    "TORCHINDUCTOR_CACHE_DIR",
    "KMP_DUPLICATE_LIB_OK",
    "WANDB_SERVICE",
)
OF_RAY = ("PYTHONBREAKPOINT", "RAY_")  # once it is imported it goes by them
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)
THREADS_OF_LIBRARIES = ("tqdm_monitor", "wandb-", "Otel")  # what their names begin with


def process_state() -> dict[str, object]:
    """State of this process by name; equal before and after a test that leaves no trace."""
    method = multiprocessing.get_start_method(allow_none=True)
    state: dict[str, object] = {
        "start method of processes": method or multiprocessing.get_all_start_methods()[0],
        "working directory": os.getcwd(),  # noqa: PTH109
        "umask": _umask(),
        "sys.path": list(sys.path),
        "sys.argv": list(sys.argv),
        "locale": locale.setlocale(locale.LC_ALL),
        "time zone": time.tzname,
        "torch threads": torch.get_num_threads(),
        "torch default dtype": torch.get_default_dtype(),
        "torch gradients": torch.is_grad_enabled(),
        "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch flushes denormals": (torch.full((1,), 1e-39) * 0.5).item() == 0,
        "torch process group": torch.distributed.is_initialized(),
        "limits of the process": [resource.getrlimit(kind) for kind in LIMITS],
        "logging level": (logging.root.level, logging.root.manager.disable),
        "logging handlers": {id(h): str(h) for h in logging.root.handlers if not _of_pytest(h)},
    }
    # torch keeps its own handler of SIGCHLD once a loader has had processes; SIGALRM ends tests
    # that hang
    for number in sorted(signal.valid_signals() - {signal.SIGCHLD, signal.SIGALRM}):
        state[f"handler of signal {number}"] = signal.getsignal(number)
    for name, value in os.environ.items():
        if name not in OF_LIBRARIES and not name.startswith(OF_RAY):
            state[f"environment variable {name}"] = value
    return state


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Each state that differs, with both values."""
    return [
        f"{name}: {before.get(name)!r} before, {after.get(name)!r} after"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def threads() -> dict[int, str]:
    """Names of Python's threads by identity, without those that a library keeps for the session."""
    found = {t.ident or 0: t.name for t in threading.enumerate()}
    return {key: name for key, name in found.items() if not name.startswith(THREADS_OF_LIBRARIES)}


def children() -> dict[int, str]:
    """Command lines of the child processes of this one, without those that serve the session."""
    found = {}
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in _text(path).split():
            command = _text(Path("/proc") / pid / "cmdline").replace("\0", " ").strip()
            if not any(name in command for name in SERVANTS):
                found[int(pid)] = command[:200] or "ended, and nobody waited for it"
    return found


def left_running(old_threads: dict[int, str], old_children: dict[int, str]) -> list[str]:
    """Threads and children that are new and do not end by themselves in a moment."""
    end = time.monotonic() + PATIENCE
    while True:
        found = [f"thread {name!r}" for key, name in threads().items() if key not in old_threads]
        found += [f"child {pid}: {c}" for pid, c in children().items() if pid not in old_children]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.02)


class Watch:
    """Fails at the end of its block when something is left behind, unless the block failed itself.

    Args:
        who: what the message blames.
    """

    def __init__(self, who: str) -> None:
        self.who = who

    def __enter__(self) -> None:
        self.before = process_state()
        self.threads, self.children = threads(), children()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            return
        found = differences(self.before, process_state())
        found += left_running(self.threads, self.children)
        if found:
            pytest.fail(f"{self.who} left behind: " + "; ".join(found), pytrace=False)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _of_pytest(handler: logging.Handler) -> bool:
    return type(handler).__module__.startswith("_pytest.")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process ended meanwhile
        return ""
