"""The guard over all tests: what it says of a test that leaves something behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.leaks import Watch, children, process_state, threads

ROOT = Path(__file__).resolve().parents[1]
SOFT, HARD = resource.getrlimit(resource.RLIMIT_AS)
EVENT = threading.Event()


def start_a_thread() -> None:
    EVENT.clear()
    threading.Thread(target=EVENT.wait, name="left").start()


LEAKS: list[tuple[str, Callable[[], object]]] = [
    ("working directory: ", lambda: os.chdir("/")),
    ("environment variable LEFT: None before, 'x' after", lambda: os.environ.update(LEFT="x")),
    ("umask: ", lambda: os.umask(0o007)),
    ("torch threads: ", lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    ("torch default dtype: torch.float32 before", lambda: torch.set_default_dtype(torch.float64)),
    ("torch flushes denormals: False", lambda: torch.set_flush_denormal(True)),
    ("torch gradients: True", lambda: torch.set_grad_enabled(False)),
    ("handler of signal 10: ", lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN)),
    ("limits of the process: ", lambda: resource.setrlimit(resource.RLIMIT_AS, (2**50, HARD))),
    ("sys.path: ", lambda: sys.path.append("left")),
    ("thread 'left'", start_a_thread),
]


@pytest.fixture()
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back whatever a case leaves."""
    monkeypatch.chdir(Path.cwd())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("tests.leaks.PATIENCE", 0.2)


@pytest.mark.parametrize(("message", "leak"), LEAKS, ids=[name for name, _ in LEAKS])
def test_what_is_left_behind_is_named(
    mended: None, message: str, leak: Callable[[], object]
) -> None:
    handler, umask = signal.getsignal(signal.SIGUSR1), os.umask(0o022)
    os.umask(umask)
    try:
        with (
            pytest.raises(pytest.fail.Exception, match="^who left behind: " + message),
            Watch("who"),
        ):
            leak()
    finally:
        EVENT.set()
        os.umask(umask)
        os.environ.pop("LEFT", None)
        signal.signal(signal.SIGUSR1, handler)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        resource.setrlimit(resource.RLIMIT_AS, (SOFT, HARD))


def test_a_child_that_goes_on_is_named(mended: None) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"child \d+: .*sleep 100"), Watch("who"):
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(100)", "sleep 100"]
        )
    child.kill()
    child.wait()
    assert child.pid not in children()


def test_nothing_is_nothing() -> None:
    with Watch("who"):
        thread = threading.Thread(target=lambda: None)
        thread.start()
        subprocess.run(["true"], check=True)
    assert process_state() == process_state() and threads()


def test_the_failure_of_the_block_comes_first() -> None:
    with pytest.raises(ValueError, match="own"), Watch("who"):
        os.environ["LEFT"] = "x"
        raise ValueError("own")
    del os.environ["LEFT"]


IGNORED = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a job in the background
import tests.conftest
show = "import os, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
show += "; print([name for name in os.environ if 'proxy' in name.lower() or name == 'RANK'])"
print(subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True).stdout)
"""


def test_what_the_shell_has_set_reaches_no_test() -> None:
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "RANK": "1"}
    command = [sys.executable, "-c", IGNORED]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "[]"], done.stderr
