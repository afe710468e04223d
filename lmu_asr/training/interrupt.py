"""SIGTERM and SIGUSR1 ask a run to save and leave; how it is resumed is printed."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from lmu_asr.errors import TrainingError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopAskedError(Exception):
    """A signal came: unwinds the loop to where the state is saved."""


class RunStoppedError(TrainingError):
    """The run was asked to stop, and has saved itself."""


class StopRequest:
    """Whether a signal has asked this process to stop."""

    def __init__(self) -> None:
        self.asked = False

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
        self.asked = True
        logging.info("%s: saving, then leaving", signal.Signals(number).name)


def resume_command() -> str:
    """The command that started the run: as the driver was called, or this process's own."""
    return os.environ.get("LMU_ASR_COMMAND") or shlex.join([sys.executable, *sys.orig_argv[1:]])
