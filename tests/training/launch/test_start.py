"""The launcher's signals, orphans, and one run at a time in a directory."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lmu_asr import lock
from lmu_asr.checkpoints.checkpoint import CheckpointStore
from lmu_asr.errors import TrainingError
from lmu_asr.lock import sole_run
from tests.training.processes import (
    NO_TORCHRUN,
    descendants,
    finish,
    is_running,
    launch,
    wait_for_metrics,
)


def start(exp_dir: Path) -> subprocess.Popen[str]:
    options = ["toy.pause=0.5", "train.checkpoint_every=9999", "train.epochs=200"]
    process = launch(["--nproc", "2"], ["tests.training.toy", str(exp_dir), *options])
    wait_for_metrics(exp_dir)
    return process


@NO_TORCHRUN
def test_a_signal_to_the_launcher_saves_and_leaves_with_its_status(tmp_path: Path) -> None:
    process = start(tmp_path)
    process.send_signal(signal.SIGUSR1)
    status, output = finish(process)
    assert status == 128 + signal.SIGUSR1
    assert output.count("To go on:") == 1
    assert CheckpointStore(tmp_path, 1).steps()


@NO_TORCHRUN
def test_a_killed_launcher_leaves_no_orphans(tmp_path: Path) -> None:
    process = start(tmp_path)
    family = descendants(process.pid)
    assert len(family) == 3  # torchrun and two processes
    process.kill()
    deadline = time.monotonic() + 240
    while any(is_running(pid) for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(pid) for pid in family)


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(TrainingError, match="another process is training here")
    with sole_run(tmp_path), refused, sole_run(tmp_path, patience=0.3):
        pass


def test_a_run_that_ends_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier, waits = contextlib.ExitStack(), []
    earlier.enter_context(sole_run(tmp_path))

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            earlier.close()  # locks are of an open file: one process can be both runs

    monkeypatch.setattr(lock.time, "sleep", wait)
    with sole_run(tmp_path, patience=600):
        assert waits == [0.2, 0.2]
