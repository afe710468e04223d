"""The launcher's signals, orphans, and one run at a time in a directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmu_asr.errors import TrainingError
from lmu_asr.training.checkpoint import CheckpointStore
from lmu_asr.training.launch import children
from lmu_asr.training.lock import sole_run
from tests.training.test_kill import wait_until_it_trains
from tests.training.toy import free_port

NO_TORCHRUN = pytest.mark.skipif(
    torch.__version__ < "2" and sys.version_info >= (3, 11),
    reason="torchrun of torch 1 fails on Python 3.11 before it starts a process",
)


def start(exp_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lmu_asr.training.launch", "--nproc_per_node=2"]
    command += [f"--master_port={free_port()}", "-m", "tests.training.toy", str(exp_dir)]
    options = ["toy.pause=0.5", "train.checkpoint_every=99", "train.epochs=50"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (exp_dir / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    wait_until_it_trains(exp_dir)
    return process


def descendants(pid: int) -> list[int]:
    own = children(pid)
    return own + [grandchild for child in own for grandchild in descendants(child)]


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@NO_TORCHRUN
def test_a_signal_to_the_launcher_saves_and_leaves_with_success(tmp_path: Path) -> None:
    process = start(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 0
    assert CheckpointStore(tmp_path, 1).steps()


@NO_TORCHRUN
def test_a_killed_launcher_leaves_no_orphans(tmp_path: Path) -> None:
    process = start(tmp_path)
    family = descendants(process.pid)
    assert len(family) == 3  # torchrun and two processes
    process.kill()
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(pid) for pid in family)


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(TrainingError, match="another process is training here")
    with sole_run(tmp_path), refused, sole_run(tmp_path, patience=0.3):
        pass


def test_a_run_that_ends_is_waited_for(tmp_path: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with sole_run(tmp_path):
            os.write(write, b"x")
            time.sleep(0.5)
        os._exit(0)
    os.read(read, 1)
    start_time = time.monotonic()
    with sole_run(tmp_path):
        assert time.monotonic() - start_time > 0.2
    os.waitpid(pid, 0)
