"""A run that is asked to stop saves and leaves, with status 0: no launcher starts it again.

The guard of the run, or of its launcher, asks through the file that ``LMU_ASR_STOP_FILE`` names, which
reaches every process on every machine (:mod:`lmu_asr.guard`). A signal to a training process itself
asks too. The guard's status says that the run has stopped before its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from lmu_asr.errors import TrainingError
from lmu_asr.files import discard_temporaries
from lmu_asr.guard import (
    COMMAND,
    SIGNALS,
    STOP_FILE,
    mark_stopped,
    stop_asked,
    watch_stop_file,
)

__all__ = ["SIGNALS", "STOP_FILE", "StopRequest", "mark_stopped", "stop_asked"]


class StopAskedError(Exception):
    """A signal came: unwinds the loop to where the state is saved."""


class RunStoppedError(TrainingError):
    """The run was asked to stop, and has saved itself."""


class StopUnsavedError(TrainingError):
    """The run was asked to stop, but its state could not be saved."""


class StopRequest:
    """Whether a signal, or the file that stands for one, has asked this process to stop."""

    listeners = 0  # requests of this process that something polls now

    def __init__(self) -> None:
        self._signalled = False

    @property
    def asked(self) -> bool:
        """Whether to save and leave."""
        return self._signalled or stop_asked()

    def ask(self) -> None:
        """Ask as a signal does."""
        self._signalled = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the signals inside the block; outside they do what they did before."""
        before = {}
        if (
            threading.current_thread() is threading.main_thread()
        ):  # else a launcher owns the signals
            # what is ignored (nohup) stays ignored
            wanted = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
            before = {number: signal.signal(number, self._take) for number in wanted}
        StopRequest.listeners += 1
        try:
            yield self
        finally:
            StopRequest.listeners -= 1
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        logging.info("%s: saving, then leaving", signal.Signals(number).name)


def leave_before_training() -> None:
    """From now on leave at once when asked, as long as no loop listens: nothing is to be saved.

    Only in a process of its own; elsewhere (Ray) :func:`check_stop` stands at the steps on the way.
    """
    if threading.current_thread() is threading.main_thread():
        watch_stop_file(_leave_unless_heard)


def check_stop() -> None:
    """Raise RunStoppedError where a guard has asked already."""
    if stop_asked():
        raise RunStoppedError("asked to stop before the first step")


def resume_command() -> str:
    """The command that started the run: as the driver was called, or this process's own."""
    return os.environ.get(COMMAND) or shlex.join([sys.executable, *sys.orig_argv[1:]])


def _leave_unless_heard() -> None:
    if not StopRequest.listeners:
        mark_stopped()
        discard_temporaries()
        # in a thread, where sys.exit would end the thread alone
        os._exit(0)
