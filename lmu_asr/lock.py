"""One run at a time in an experiment directory; one process at a time that prepares a directory."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from lmu_asr.errors import TrainingError

PATIENCE_SECONDS = 30.0


@contextlib.contextmanager
def sole_run(directory: Path, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold ``directory`` for this process; the system lets go of it however the process ends.

    Args:
        directory: the experiment directory, made if it is missing.
        patience: seconds to wait for a run that is just ending.

    Raises:
        TrainingError: another process trains there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # flock, not the file's existence: the system lets go of it after kill -9 too
    with open(directory / ".lock", "a", encoding="utf-8") as stream:
        _acquire(stream.fileno(), directory, patience)
        yield


@contextlib.contextmanager
def turn(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path``, after waiting for as long as another process holds it.

    Yields whether it had to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    # the lock file is never removed: another process may be waiting on this very inode
    with open(path, "a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("%s: another process is at work there; waiting for it", path.parent)
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX)
            waited = True
        except OSError as error:  # a file system without locks
            logging.warning("%s cannot be locked: %s", path, error.strerror)
        yield waited


def _acquire(descriptor: int, directory: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TrainingError(
                    f"{directory}: another process is training here; stop it first, or use "
                    "another --exp-dir or --variant"
                ) from None
        except OSError as error:  # a file system without locks
            logging.warning("%s cannot be locked: %s", directory, error.strerror)
            return
        if not said:
            logging.info("%s: waiting for another process to leave it", directory)
        said = True
        time.sleep(0.2)
