"""Directories for temporary files that do not outlive their process, even if that is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path


class Scratch:
    """A directory, removed with this object, or by the next one of its kind after a kill.

    Args:
        root: where it is made.
        prefix: of its name, which belongs to directories of this kind alone.

    Attributes:
        folder: the directory.
    """

    def __init__(self, root: Path, prefix: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        for old in root.glob(f"{prefix}*"):
            _remove_if_left(old)
        # locked before it has the prefix: another process would take it for one left by a kill
        made = Path(tempfile.mkdtemp(dir=root))
        self._lock = _locked(made)
        self.folder = made.rename(root / f"{prefix}{made.name}")
        weakref.finalize(self, _remove_own, self.folder, self._lock, os.getpid())


def _locked(folder: Path) -> int | None:
    """Hold the directory for as long as this process or a child of it lives; None: another does."""
    # a link, or a pipe that would block, may lie in a directory that all can write to
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if (lock := _locked(folder)) is not None:
            shutil.rmtree(folder)
            os.close(lock)


def _remove_own(folder: Path, lock: int | None, owner: int) -> None:
    """Remove the directory, unless this is a child that has a copy of the object."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
