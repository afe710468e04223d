"""SIGTERM and SIGUSR1 ask a run to save and leave; how it is resumed is printed.

Where signals do not reach a process (under Ray, or on another machine) the file that
``LMU_ASR_STOP_FILE`` names asks in their place, as soon as it exists. A run that has left so writes
a line into the file that ``LMU_ASR_STOPPED_FILE`` names, for the driver, whose next stage must wait.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from lmu_asr.errors import TrainingError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOP_FILE = "LMU_ASR_STOP_FILE"
STOPPED_FILE = "LMU_ASR_STOPPED_FILE"


class StopAskedError(Exception):
    """A signal came: unwinds the loop to where the state is saved."""


class RunStoppedError(TrainingError):
    """The run was asked to stop, and has saved itself."""


class StopRequest:
    """Whether a signal, or the file that stands for one, has asked this process to stop."""

    def __init__(self) -> None:
        self._signalled = False
        name = os.environ.get(STOP_FILE)
        self._file = Path(name) if name else None

    @property
    def asked(self) -> bool:
        """Whether to save and leave."""
        return self._signalled or (self._file is not None and self._file.exists())

    def ask(self) -> None:
        """Ask as a signal does."""
        self._signalled = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the signals inside the block; outside they do what they did before."""
        try:
            before = {number: signal.signal(number, self._take) for number in SIGNALS}
        except ValueError:  # not the main thread: the launcher owns the signals
            yield self
            return
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        logging.info("%s: saving, then leaving", signal.Signals(number).name)


def mark_stopped() -> None:
    """Tell the driver that started this process that the run has stopped before its end."""
    name = os.environ.get(STOPPED_FILE)
    if name:
        Path(name).write_text("stopped\n", encoding="utf-8")


def resume_command() -> str:
    """The command that started the run: as the driver was called, or this process's own."""
    return os.environ.get("LMU_ASR_COMMAND") or shlex.join([sys.executable, *sys.orig_argv[1:]])
