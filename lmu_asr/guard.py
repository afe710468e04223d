"""A process that stands between signals and the work: whatever comes, the work ends whole.

The work runs in a child with a session of its own, so that a signal to the group of a terminal or a
batch system reaches this process alone, and no worker, launcher or pool of the work. This process
asks the work to end by making the file that ``LMU_ASR_STOP_FILE`` names, waits, ends what the work
has left running, and leaves with the status that names the signal: 128 + its number.

    python3 lmu_asr/guard.py COMMAND ...     # a command, such as an installer, that knows no such file

Nothing but the standard library is imported: the second form runs before there is an environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CHANGES_NO_OUTPUT = True

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
STOP_FILE = "LMU_ASR_STOP_FILE"
COMMAND = "LMU_ASR_COMMAND"  # set by the driver, which says itself how to go on
STOPPED = "stopped"  # beside it: the work was asked to end elsewhere, as on another machine
GRACE_SECONDS = 5.0  # for work that has nothing to save
LEFT_SECONDS = 2.0  # for processes that the work has left, before they are killed
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def guarded(work: Callable[[], int], name: str, saves: bool = False) -> int:
    """Run ``work`` in a child process and return its status, or 128 + the number of a signal.

    Returns in the child too, with the status of ``work``. Under another guard it runs ``work`` alone.

    Args:
        work: returns an exit status; :func:`watch_stop_file` says how it hears of a signal.
        name: of the work, for the line that tells how to go on.
        saves: whether it has something to save, so that it may take its time.
    """
    if STOP_FILE in os.environ:
        return work()
    with _stop_file() as stop_file:
        guard = _Guard(stop_file, None if saves else GRACE_SECONDS)
        if guard.fork():
            return work()
        status = guard.wait()
        if guard.taken and COMMAND not in os.environ:
            again = shlex.join([sys.executable, *sys.orig_argv[1:]])
            named = signal.Signals(guard.taken).name
            _say(f"{name} stopped by {named} (status {status}). To go on:\n  {again}\n")
        return status


def run_command(command: Sequence[str]) -> int:
    """Run a program under guard; SIGTERM goes to all of its processes. Returns its status."""
    with _stop_file() as stop_file:
        guard = _Guard(stop_file, GRACE_SECONDS, whole_group=True)
        if guard.fork():
            del os.environ[STOP_FILE]
            try:
                os.execvp(command[0], list(command))
            except OSError as error:
                _say(f"{command[0]}: {error.strerror}\n")
                os._exit(127)
        return guard.wait()


def stop_asked() -> bool:
    """Whether a guard has asked this process to end."""
    name = os.environ.get(STOP_FILE)
    return name is not None and Path(name).exists()


def mark_stopped() -> None:
    """Tell the guard that the work ends before its end, though nothing may have asked it here."""
    name = os.environ.get(STOP_FILE)
    if name:
        with contextlib.suppress(OSError):
            Path(name).with_name(STOPPED).touch()


def watch_stop_file(leave: Callable[[], None]) -> None:
    """Call ``leave`` in a thread of its own as soon as a guard asks; without a guard do nothing.

    A thread and no signal handler: it need not wait for the main thread to come out of a library.
    """
    if STOP_FILE not in os.environ:
        return

    def watch() -> None:
        while not stop_asked():
            time.sleep(POLL_SECONDS)
        leave()

    threading.Thread(target=watch, name="stop", daemon=True).start()


def end_quietly() -> None:
    """Let SIGINT end this program as it ends others, without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Let a signal come when the parent process dies, so that no orphan works on (Linux)."""
    _prctl(PR_SET_PDEATHSIG, number)


def children(pid: int) -> list[int]:
    """Processes that ``pid`` has started and that have not been waited for (Linux)."""
    found: list[int] = []
    # a list of its own for each thread: any of them may have started a process
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has just ended
            found += [int(text) for text in task.read_text().split()]
    return found


class _Guard:
    """One child, the signals that came meanwhile, and the end of everything that the child started."""

    def __init__(self, stop_file: Path, grace: float | None, whole_group: bool = False) -> None:
        self.stop_file, self.grace, self.whole_group = stop_file, grace, whole_group
        # a signal that was ignored stays so (nohup, a job in the background of a script)
        self.wanted = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        self.taken = 0
        self.child = 0

    def fork(self) -> bool:
        """Start the child; returns whether this is it."""
        own = os.getpid()
        if (
            COMMAND in os.environ
        ):  # the driver is the parent; by hand it may be a shell that one leaves
            die_with_parent()
        # grandchildren whose parent dies come to this process, not to init
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        # from here on signals wait until sigtimedwait takes them: none can come at a bad time
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [*self.wanted, signal.SIGCHLD])
        os.environ[STOP_FILE] = str(self.stop_file)
        self.child = os.fork()
        if self.child:
            del os.environ[STOP_FILE]
            return False
        os.setsid()
        die_with_parent()
        if os.getppid() != own:  # the guard died before its death could be told
            os._exit(128 + signal.SIGTERM)
        for number in self.wanted:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return True

    def wait(self) -> int:
        """Wait for the child, asking it to end when a signal comes; returns the status to leave with."""
        deadline = None
        asked = False
        while (status := self._reap()) is None:
            if self.taken and not asked:
                asked = True
                self._ask()
                deadline = time.monotonic() + self.grace if self.grace is not None else None
            if deadline is not None and time.monotonic() > deadline:
                _kill(self.child, signal.SIGKILL)
            self._take()
        self._end_leftovers()
        if not self.taken and status == 0 and self.stop_file.with_name(STOPPED).exists():
            self.taken = signal.SIGTERM
        if self.taken:
            return 128 + self.taken
        return status if status >= 0 else 128 - status

    def _take(self) -> None:
        """Wait for a signal or for a child's end, a moment at the most; the first signal counts."""
        got = signal.sigtimedwait([*self.wanted, signal.SIGCHLD], POLL_SECONDS)
        if got is not None and got.si_signo != signal.SIGCHLD and not self.taken:
            self.taken = got.si_signo

    def _ask(self) -> None:
        self.stop_file.touch()
        if self.whole_group:
            _kill(-self.child, signal.SIGTERM)

    def _reap(self) -> int | None:
        """Take the status of every process that has ended; returns the child's, if it is there."""
        found = None
        with contextlib.suppress(ChildProcessError):
            while True:
                # -1: adopted processes have to be reaped as well
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.child:
                    found = os.waitstatus_to_exitcode(status)
        return found

    def _end_leftovers(self) -> None:
        """End what the child has left: it is handed to this process (Linux), or is of the group."""
        deadline = time.monotonic() + LEFT_SECONDS
        _kill(-self.child, signal.SIGTERM)
        while left := children(os.getpid()):
            late = time.monotonic() > deadline
            for pid in left:
                _kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(0.02)
            self._reap()
        # where there is no subreaper the group is all that is known of them
        _kill(-self.child, signal.SIGKILL)


@contextlib.contextmanager
def _stop_file() -> Iterator[Path]:
    """A path in a directory of this process alone, which goes with it."""
    owner, folder = os.getpid(), tempfile.mkdtemp(prefix="lmu-asr-")
    try:
        yield Path(folder) / "stop"
    finally:
        # the forked child leaves this block too, and must not remove its guard's directory
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        # Python has no prctl; CDLL(None) is the C library already loaded
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _say(text: str) -> None:
    """Write to standard error, which may be a terminal that has gone."""
    with contextlib.suppress(OSError):
        # not sys.stderr: what it buffers would fail again when Python ends
        os.write(2, text.encode())


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:]))
