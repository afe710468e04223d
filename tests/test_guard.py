"""The process between signals and the work: statuses, second signals, work that hangs, what is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.signals import ROOT, SIGNALS, Started

HEAD = """
import os, signal, subprocess, sys, time
from lmu_asr import guard
guard.GRACE_SECONDS = guard.LEFT_SECONDS = 0.3
def started():
    open(sys.argv[1], "w").close()
def asked():
    while not guard.stop_asked():
        time.sleep(0.01)
"""
TAIL = "\nsys.exit(guard.guarded(work, 'the work', saves={saves}))\n"


def start(tmp_path: Path, work: str, saves: bool = True, before: str = "") -> Started:
    (tmp_path / "work.py").write_text(HEAD + before + work + TAIL.format(saves=saves))
    return Started(
        [sys.executable, str(tmp_path / "work.py"), str(tmp_path / "on")], tmp_path / "logs"
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_the_status_names_the_signal_and_the_work_leaves_with_success(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = start(tmp_path, "def work():\n    started(); asked(); print('saved'); return 0\n")
    run.wait_for(tmp_path / "on")
    run.process.send_signal(number)
    assert run.finish() == 128 + number
    first, *lines = run.output().splitlines()
    assert first == "saved"
    assert lines[0] == f"the work stopped by {number.name} (status {128 + number}). To go on:"
    assert lines[1:] == [f"  {sys.executable} {tmp_path}/work.py {tmp_path}/on"]


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    work = "def work():\n    started(); asked(); started2(); time.sleep(0.5); print('saved'); return 0\n"
    more = f"def started2():\n    open({str(tmp_path / 'saving')!r}, 'w').close()\n"
    run = start(tmp_path, work, before=more)
    run.wait_for(tmp_path / "on")
    run.process.send_signal(signal.SIGHUP)
    run.wait_for(tmp_path / "saving")
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 128 + signal.SIGHUP
    assert run.output().startswith("saved\n")


def test_work_that_hears_nothing_is_killed_if_it_has_nothing_to_save(tmp_path: Path) -> None:
    run = start(tmp_path, "def work():\n    started(); time.sleep(600)\n", saves=False)
    run.wait_for(tmp_path / "on")
    run.process.send_signal(signal.SIGTERM)
    assert run.finish(30) == 143
    assert run.orphans == []


def test_what_the_work_leaves_is_ended_however_far_it_went(tmp_path: Path) -> None:
    far = "[sys.executable, '-c', 'import signal, time; signal.signal(15, lambda *_: 0); time.sleep(600)']"
    work = f"def work():\n    subprocess.Popen({far}, start_new_session=True); return 3\n"
    run = start(tmp_path, work)
    assert run.finish(30) == 3
    assert run.orphans == []
    assert run.output() == ""


def test_a_signal_that_was_ignored_stays_so(tmp_path: Path) -> None:
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    work = "def work():\n    started(); asked(); return 0\n"
    run = start(tmp_path, work, before=before)
    run.wait_for(tmp_path / "on")
    run.process.send_signal(signal.SIGHUP)
    run.process.send_signal(signal.SIGUSR1)
    assert run.finish() == 138


@pytest.mark.parametrize(
    ("work", "status"),
    [
        ("return 0", 0),
        ("return 7", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("guard.mark_stopped(); return 0", 143),  # asked to stop elsewhere
    ],
)
def test_the_status_of_the_work(tmp_path: Path, work: str, status: int) -> None:
    run = start(tmp_path, f"def work():\n    {work}\n")
    assert run.finish() == status


def test_a_command_that_is_not_there() -> None:
    done = subprocess.run(
        [sys.executable, "-I", ROOT / "lmu_asr/guard.py", "no-such-command"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 127
    assert done.stderr == "no-such-command: No such file or directory\n"
