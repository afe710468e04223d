"""Checkpoints mirrored to an object store: a run that lost its machine goes on from there.

A thread of its own copies what a save left, so that training never waits for the network. It
copies a hard link, so that a file that is replaced meanwhile is still copied whole; new files are
written before old ones are removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

from lmu_asr.checkpoints.checkpoint import Checkpoint, CheckpointStore
from lmu_asr.checkpoints.identity import Identity
from lmu_asr.errors import CheckpointError, RemoteError
from lmu_asr.remote import RemoteFolder, experiment_url, fetch_folder

PATTERNS = ("checkpoint-*.pt", "best.pt", "averaged.pt", "*/*.pt")
RECORDS = ("metrics.jsonl", "training.json", "config.yaml", "dropped.jsonl", "train.png")
LINK = ".upload"
STAGING = ".mirror"
CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pt")


def open_store(exp_dir: Path, keep_last: int, remote: str, identity: Identity) -> CheckpointStore:
    """Return the checkpoints of ``exp_dir``, mirrored where ``remote`` (``s3://...``) is given."""
    if not remote:
        return CheckpointStore(exp_dir, keep_last)
    return MirroredStore(exp_dir, keep_last, experiment_url(remote, exp_dir), identity)


class MirroredStore(CheckpointStore):
    """Checkpoints on disk, and what they are at the time in an object store.

    Args:
        directory, keep_last: as in :class:`CheckpointStore`.
        url: folder that receives the files.
        identity: what a run that is taken from there must agree with.
    """

    def __init__(self, directory: str | Path, keep_last: int, url: str, identity: Identity) -> None:
        super().__init__(directory, keep_last)
        self.url, self.identity = url, identity
        self._folder: RemoteFolder | None = None
        self._copied: dict[str, tuple[int, int] | None] | None = None
        self._lock = threading.Lock()
        self._copier: threading.Thread | None = None
        self._again = False

    def latest_good(self) -> Checkpoint | None:
        """The newest whole checkpoint, on disk or in the mirror if that is further.

        Raises:
            RemoteError: the mirror cannot be read.
            CheckpointError: the mirror holds a run of other data, tokens or configuration.
        """
        there = [int(m[1]) for name in self.folder.files() if (m := CHECKPOINT.fullmatch(name))]
        if there and max(there) > max(self.steps(), default=-1):
            self._take_mirror()
        return super().latest_good()

    def _take_mirror(self) -> None:
        """Bring the mirror's files here, once they have proved to be of this run."""
        staging = self.directory / STAGING
        shutil.rmtree(staging, ignore_errors=True)
        count = fetch_folder(self.url, staging)
        found = CheckpointStore(staging, self.keep_last).latest_good()
        try:
            if found is not None:
                self.identity.check(found.meta.get("identity", {}), self.url)
        except CheckpointError as error:
            shutil.rmtree(staging)
            raise CheckpointError(f"{error}; or name another mirror with train.remote") from error
        for path in sorted(p for p in staging.rglob("*") if p.is_file()):
            place = self.directory / path.relative_to(staging)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
        shutil.rmtree(staging)
        logging.info("%s: %d files copied from %s", self.directory, count, self.url)

    def wait(self) -> bool:
        """Wait for the disk and for the mirror.

        Raises:
            RemoteError: the mirror could not be written; the files on disk are whole.
        """
        done = super().wait()
        if self._copier:
            self._copier.join()
        # once more, here, where an error reaches the caller
        self._copy()
        return done

    @property
    def folder(self) -> RemoteFolder:
        """The mirror."""
        if self._folder is None:
            self._folder = RemoteFolder(self.url)
        return self._folder

    def _write_all(self, queue: list[Any]) -> None:
        super()._write_all(queue)
        self._again = True
        # a copier at work looks again by itself
        if self._copier is None or not self._copier.is_alive():
            self._copier = threading.Thread(target=self._copy_quietly, name="mirror", daemon=True)
            self._copier.start()

    def _copy_quietly(self) -> None:
        while self._again:
            self._again = False
            try:
                self._copy()
            except (RemoteError, OSError) as error:
                logging.error("mirror: %s; training goes on, the next save tries again", error)

    def _copy(self) -> None:
        """Copy what is new or changed, then remove there what is gone here."""
        with self._lock:
            if self._copied is None:
                # None: what is there already may be of any content, so it is copied again
                self._copied = {name: None for name in self.folder.files() if name.endswith(".pt")}
            present = {p.relative_to(self.directory).as_posix(): p for p in self._mirrored()}
            for name, path in present.items():
                with contextlib.suppress(FileNotFoundError):  # an older checkpoint, removed by now
                    self._copied[name] = self._copy_one(name, path, self._copied.get(name))
            gone = sorted(self._copied.keys() - present.keys())
            self.folder.remove(gone)
            for name in gone:
                del self._copied[name]

    def _copy_one(self, name: str, path: Path, copied: tuple[int, int] | None) -> tuple[int, int]:
        """Copy a file unless it is as ``copied`` says; returns its size and time."""
        link = self.directory / f"{LINK}.{name.replace('/', '-')}"
        link.unlink(missing_ok=True)
        os.link(path, link)
        try:
            stat = link.stat()
            state = (stat.st_size, stat.st_mtime_ns)
            if copied != state:
                self.folder.put(link, name)
            return state
        finally:
            link.unlink()

    def _mirrored(self) -> list[Path]:
        found = [p for pattern in PATTERNS for p in sorted(self.directory.glob(pattern))]
        found += [p for name in RECORDS if (p := self.directory / name).is_file()]
        return [p for p in found if not p.parent.name.startswith(("superseded-", "decode"))]
