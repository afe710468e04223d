"""Launched runs, watched and killed from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmu_asr.guard import children

NO_TORCHRUN = pytest.mark.skipif(
    torch.__version__ < "2" and sys.version_info >= (3, 11),
    reason="torchrun of torch 1 fails on Python 3.11 before it starts a process",
)


def launch(
    options: list[str], module: list[str], env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start ``lmu_asr.training.launch.start`` on the CPU; its output is merged and can be read."""
    command = [sys.executable, "-m", "lmu_asr.training.launch.start", "--ngpu", "0", *options]
    return subprocess.Popen(
        [*command, "-m", *module],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )


def finish(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str]:
    """Wait for the end; returns the exit status and what was written."""
    output, _ = process.communicate(timeout=seconds)
    print(output[-6000:])
    return process.returncode, output


def descendants(pid: int) -> list[int]:
    """Processes that ``pid`` has started, and theirs."""
    own = children(pid)
    return own + [grandchild for child in own for grandchild in descendants(child)]


def is_running(pid: int) -> bool:
    """Whether a process lives and is no zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def command_of(pid: int) -> str:
    """Command line of a process; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def wait_for_checkpoint(exp_dir: Path, seconds: float = 600) -> None:
    """Wait until a run has saved itself once."""
    deadline = time.monotonic() + seconds
    while not list(exp_dir.glob("checkpoint-*.pt")):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{exp_dir}: no checkpoint after {seconds} s")
        time.sleep(0.05)


def wait_for_metrics(exp_dir: Path, seconds: float = 600) -> None:
    """Wait until a run logs its steps."""
    deadline = time.monotonic() + seconds
    while not (exp_dir / "metrics.jsonl").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{exp_dir}: no metrics after {seconds} s")
        time.sleep(0.05)
