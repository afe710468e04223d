"""A run that is asked to stop: the driver ends there with the signal's status, and says how to go on."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lmu_asr.guard import SIGNALS
from lmu_asr.lock import turn
from tests.stages.signals import Started, take_signals

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
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
open("started", "w")
time.sleep(600)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_driver_after_training_has_saved(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = driver(tmp_path, STOPS)
    process = subprocess.Popen(
        [script, "--stage", "3"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=take_signals,
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 128 + number
    assert f"stage 4 (train) stopped by {number.name} (status {128 + number}). To go on:" in errors
    assert errors.endswith("./run.sh --stage 3\n")
    assert (tmp_path / "ran").read_text().split() == ["lmu_asr.stages.graph", "4"]


def test_ctrl_c_at_a_terminal_ends_the_loop_around_the_driver(tmp_path: Path) -> None:
    driver(tmp_path, STOPS)
    loop = "for i in 1 2; do echo turn $i; ./run.sh --stage 4; echo status $?; done"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        take_signals()
        os.execvp("bash", ["bash", "-c", loop])
    deadline = time.monotonic() + 240
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.write(terminal, b"\x03")
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while block := os.read(terminal, 4096):
            shown += block
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT
    assert b"stopped by SIGINT (status 130)" in shown and b"turn 2" not in shown


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


@pytest.mark.parametrize("place", ["setup", "configure"])
def test_a_signal_before_the_first_stage(tmp_path: Path, place: str) -> None:
    script = driver(tmp_path, "")
    slow = f"touch {tmp_path}/started; exec sleep 60"
    python = tmp_path / "stand_in/python"
    if place == "configure":
        python.write_text(f"#!/bin/bash\n{slow}\n")
    else:  # an environment is made, by a shell that starts others
        (tmp_path / "lmu_asr").symlink_to(ROOT / "lmu_asr")
        (tmp_path / "path.sh").write_text(
            f'"${{lmu_asr_run[@]}}" bash -c "touch {tmp_path}/started; sleep 60 & sleep 60"\n'
        )
    started = Started([str(script)], tmp_path / "logs", cwd=tmp_path)
    started.wait_for(tmp_path / "started")
    started.process.send_signal(signal.SIGTERM)
    assert started.finish(20) == 143
    assert started.orphans == []
    assert "run.sh stopped by SIGTERM (status 143). To go on:\n  ./run.sh\n" in started.output()
    assert not (tmp_path / "ran").exists()


SRUN = """#!/bin/bash
trap 'touch saved; exit 138' USR1
trap 'touch saved; exit 143' TERM
touch started
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("number", "status", "requeued"), [(signal.SIGUSR1, 138, True), (signal.SIGTERM, 143, False)]
)
def test_a_slurm_job_saves_and_is_queued_again_when_its_time_is_up(
    tmp_path: Path, number: signal.Signals, status: int, requeued: bool
) -> None:
    programs = {"srun": SRUN, "scontrol": f'#!/bin/bash\necho "$*" >>{tmp_path}/asked\necho node\n'}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_ID": "17"}
    job = subprocess.Popen([ROOT / "local/slurm.sh"], cwd=tmp_path, env=env)
    deadline = time.monotonic() + 240
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(number)
    assert job.wait(240) == status
    assert (tmp_path / "saved").exists()
    assert ("requeue 17" in (tmp_path / "asked").read_text()) == requeued
