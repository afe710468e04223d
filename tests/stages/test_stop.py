"""A run that is asked to stop: the driver ends there with success, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lmu_asr.training.lock import turn

ROOT = Path(__file__).resolve().parents[2]


def driver(tmp_path: Path, body: str) -> Path:
    """A copy of the driver whose stages are replaced: ``body`` is what stage 4 does in Python."""
    (tmp_path / "utils").symlink_to(ROOT / "utils")
    package = tmp_path / "stand_in"
    package.mkdir()
    (package / "python").write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        "  *stages.configure*) echo resolved.yaml ;;\n"
        f"  *training.launch*) echo 4 >>{tmp_path}/ran; exec {sys.executable} {tmp_path}/train.py ;;\n"
        f'  *) echo "$2" >>{tmp_path}/ran ;;\n'
        "esac\n"
    )
    (package / "python").chmod(0o755)
    (tmp_path / "train.py").write_text(body)
    (tmp_path / "path.sh").write_text(f"export PATH={package}:$PATH\n")
    script = tmp_path / "run.sh"
    script.write_text((ROOT / "run.sh").read_text())
    script.chmod(0o755)
    return script


STOPS = """
import os, signal, sys, time
def leave(number, frame):
    open(os.environ["LMU_ASR_STOPPED_FILE"], "w").write("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
open("started", "w")
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_driver_with_success_after_training_has_saved(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = driver(tmp_path, STOPS)
    process = subprocess.Popen(
        [script, "--stage", "3"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored in background jobs
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "was asked to stop and has saved itself; run.sh ends here" in errors
    assert (tmp_path / "ran").read_text().split() == ["lmu_asr.stages.graph", "4"]


@pytest.mark.parametrize(("status", "stages"), [(0, 3), (9, 1)])
def test_the_status_of_training_is_kept(tmp_path: Path, status: int, stages: int) -> None:
    script = driver(tmp_path, f"raise SystemExit({status})")
    done = subprocess.run(
        [script, "--stage", "4"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert ("stage 4 (train) stopped with status 9" in done.stderr) == (status == 9)
    assert len((tmp_path / "ran").read_text().split()) == stages


def test_one_process_at_a_time_prepares_a_directory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path, order = tmp_path / "new/.lang.lock", []

    def second() -> None:
        with turn(path) as waited:
            order.append(("second", waited))

    with turn(path) as waited:
        assert not waited
        thread = threading.Thread(target=second)
        thread.start()
        end = time.monotonic() + 240
        while "another process is at work" not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)
        order.append(("first", waited))
    thread.join()
    assert order == [("first", False), ("second", True)]
