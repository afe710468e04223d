"""Checkpoints that are whole or absent: written atomically, sealed by SHA-256, checked on loading.

A checkpoint is what ``torch.save`` writes (a zip archive of plain tensors and one JSON text), with
``sha256:<hex>`` of all the bytes before it as the archive's comment. So other tools read it as it
is, and a cut file or a changed byte is found before a single weight is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch import Tensor

from lmu_asr.errors import CheckpointError, advice
from lmu_asr.files import atomic_open, parse_json
from lmu_asr.torch_versions import packed, unpacked

SEAL = b"sha256:"
SEAL_BYTES = len(SEAL) + 64
RETRY_SECONDS = 20.0
# A pickle that was made by hand can make the safe loader fail in any of these ways.
MALFORMED = (
    RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, EOFError,
    AssertionError, UnpicklingError, MemoryError, OSError, RecursionError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """Tensors (nested plain dictionaries and lists) and JSON of one saved moment."""

    tensors: dict[str, Any]
    meta: dict[str, Any]
    path: Path

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to decode with: the running average where there is one.

        Raises:
            CheckpointError: it has no weights.
        """
        weights = self.tensors.get("ema") or self.tensors.get("model")
        if not weights:
            raise CheckpointError(f"{self.path}: has no weights")
        return weights


def serialize(tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> bytes:
    """Return the archive's bytes, unsealed; later changes of ``tensors`` do not reach them."""
    buffer = io.BytesIO()
    torch.save(
        {"tensors": packed(dict(tensors)), "meta": json.dumps(meta, ensure_ascii=False)}, buffer
    )
    return buffer.getvalue()


def write_sealed(stream: IO[bytes], archive: bytes) -> None:
    """Write ``archive`` with the hash of its bytes as its comment, without copying it."""
    body = memoryview(archive)[:-2]  # its last two bytes are the length of the comment
    size = SEAL_BYTES.to_bytes(2, "little")
    digest = hashlib.sha256(body)
    digest.update(size)
    for part in (body, size, SEAL, digest.hexdigest().encode()):
        stream.write(part)


def check_seal(data: bytes, where: str) -> None:
    """Check that ``data`` ends in the hash of what comes before; ``where`` names it in errors.

    Raises:
        CheckpointError: cut, changed, or never sealed.
    """
    # a view, since slicing bytes would copy the whole file
    body, comment = memoryview(data)[:-SEAL_BYTES], data[-SEAL_BYTES:]
    if not comment.startswith(SEAL):
        raise CheckpointError(f"{where}: cut short or not sealed ({len(data)} bytes)")
    wanted, found = comment[len(SEAL) :].decode("ascii", "replace"), hashlib.sha256(body)
    if found.hexdigest() != wanted:
        raise CheckpointError(
            f"{where}: damaged: SHA-256 is {found.hexdigest()[:12]}, sealed as {wanted[:12]}"
        )


def save_checkpoint(path: str | Path, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write a sealed checkpoint atomically.

    Raises:
        OSError: the disk is full or the directory cannot be written; ``path`` stays as it was.
    """
    _write_archive(Path(path), serialize(tensors, meta))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint onto the CPU after checking its hash; no code in the file is run.

    Raises:
        CheckpointError: missing, cut or changed file, or one that is not a checkpoint.
    """
    path = Path(path)
    data = _read_sealed(path)
    try:
        # from the bytes that were checked, since the file may be replaced meanwhile
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        tensors, meta = unpacked(content["tensors"]), parse_json(content["meta"], str(path))
        _check_shape(tensors, meta)
    except MALFORMED as error:
        raise CheckpointError(f"{path}: not a checkpoint of this package: {error}") from error
    return Checkpoint(tensors, meta, path)


def _check_shape(tensors: Any, meta: Any) -> None:
    """Check what every checkpoint has; raises ValueError."""
    if not isinstance(tensors, dict) or not isinstance(meta, dict):
        raise ValueError("no dictionaries of tensors and of records")
    for name in ("model", "ema"):
        weights = tensors.get(name, {})
        if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
            raise ValueError(f"'{name}' is no dictionary of weights")
        if not all(isinstance(value, Tensor) for value in weights.values()):
            raise ValueError(f"'{name}' holds more than tensors")
    if not isinstance(meta.get("identity", {}), dict):
        raise ValueError("its 'identity' is no dictionary")
    rows = meta.get("metrics", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("its 'metrics' are no list of rows")


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Weights of a checkpoint to decode with: the running average where training kept one."""
    return load_checkpoint(path).weights


def average_weights(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of several sets of weights, in float64; whole-number entries are taken from the last."""
    out = {}
    for name, last in weights[-1].items():
        if last.is_floating_point():
            total = torch.stack([w[name].double() for w in weights]).mean(dim=0)
            out[name] = total.to(last.dtype)
        else:
            out[name] = last.clone()
    return out


def _write_archive(path: Path, archive: bytes) -> None:
    with atomic_open(path, "wb") as stream:
        write_sealed(stream, archive)


def _read_sealed(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    check_seal(data, str(path))
    return data


@dataclass
class _Write:
    """One file to be written in the background."""

    name: str
    archive: bytes
    best: bool
    newest: bool


class CheckpointStore:
    """The checkpoints of one experiment directory: ``checkpoint-<step>.pt``, ``last.pt``, ``best.pt``.

    Files are sealed and written by a background thread, one at a time. A write that fails (a full
    disk) leaves every earlier file as it was, is logged, and is tried again. The thread is never
    ahead of :meth:`wait`, which the trainer calls before it exits.

    Args:
        directory: the experiment directory.
        keep_last: ``checkpoint-<step>.pt`` files kept besides the newest.
    """

    def __init__(self, directory: str | Path, keep_last: int) -> None:
        self.directory = Path(directory)
        self.keep_last = keep_last
        self.failed: list[_Write] = []
        self._retry_at = 0.0
        self._thread: threading.Thread | None = None

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, ascending."""
        names = self.directory.glob("checkpoint-*.pt")
        return sorted(int(p.stem.split("-")[1]) for p in names if p.stem.split("-")[1].isdigit())

    def path(self, step: int) -> Path:
        """File of one step."""
        return self.directory / f"checkpoint-{step}.pt"

    def latest_good(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None; every damaged one is logged and passed over.

        After the numbered checkpoints ``best.pt`` is tried, which is a file of its own.
        """
        paths = [self.path(step) for step in reversed(self.steps())]
        best = self.directory / "best.pt"
        for path in [*paths, best] if best.exists() else paths:
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                logging.warning("%s; falling back to the one before", error)
        if paths:
            logging.warning(
                "%s: no undamaged checkpoint is left: training starts from the beginning",
                self.directory,
            )
        return None

    def save(
        self, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any], best: bool = False
    ) -> None:
        """Take a snapshot now and write it in the background; ``best`` makes it ``best.pt`` too."""
        self._take(self.path(step).name, tensors, meta, best, True)

    def save_extra(self, name: str, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Write a checkpoint under a name of its own, in the background."""
        self._take(name, tensors, meta, False, False)

    def retry(self) -> None:
        """Try failed writes again when it is time to; cheap to call at every step."""
        if self.failed and time.monotonic() >= self._retry_at:
            self._submit(None)

    def wait(self) -> bool:
        """Wait for the writer and try failed writes once more; returns whether all is on disk."""
        self._join()
        if self.failed:
            self._submit(None)
            self._join()
        return not self.failed

    def relink(self, step: int, best: bool) -> None:
        """Let ``last.pt`` (and ``best.pt``) be the checkpoint of ``step``, after an interrupted save."""
        for name in ("last.pt", "best.pt") if best else ("last.pt",):
            _link(self.path(step), self.directory / name)

    def clean(self) -> None:
        """Remove temporary files that a killed process left."""
        for pattern in (".*.tmp*", "*/.*.pt.*.tmp*"):
            for path in self.directory.glob(pattern):
                path.unlink(missing_ok=True)

    def discard_after(self, step: int) -> None:
        """Remove checkpoints newer than ``step``: damaged ones that :meth:`latest_good` passed over."""
        for newer in self.steps():
            if newer > step:
                self.path(newer).unlink()

    def _take(
        self,
        name: str,
        tensors: Mapping[str, Any],
        meta: Mapping[str, Any],
        best: bool,
        newest: bool,
    ) -> None:
        try:
            # in the caller's thread, since the next step changes the tensors
            archive = serialize(tensors, meta)
        except MemoryError:
            logging.error("%s not saved: no memory for a snapshot; training goes on", name)
            return
        self._submit(_Write(name, archive, best, newest))

    def _submit(self, write: _Write | None) -> None:
        self._join()
        # a newer save takes the place of a failed one, except of best.pt and of an epoch's weights
        queue = [w for w in self.failed if w.best or not w.newest or write is None]
        queue += [write] if write else []
        # no daemon: the interpreter waits for a write that has begun
        thread = threading.Thread(target=self._write_all, args=(queue,), name="checkpoint")
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # no memory for another thread
            self._write_all(queue)

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def _write_all(self, queue: list[_Write]) -> None:
        self.failed = []
        for write in queue:
            try:
                self._write(write)
            except (OSError, MemoryError) as error:
                self.failed.append(write)
                self._retry_at = time.monotonic() + RETRY_SECONDS
                what = advice(error) if isinstance(error, OSError) else "no memory"
                logging.error(
                    "%s could not be saved: %r; training goes on, the last good checkpoint stays, "
                    "and saving is tried again%s",
                    self.directory / write.name,
                    error,
                    f": {what}" if what else "",
                )

    def _write(self, write: _Write) -> None:
        path = self.directory / write.name
        _write_archive(path, write.archive)
        if write.newest:
            _link(path, self.directory / "last.pt")
            if write.best:
                _link(path, self.directory / "best.pt")
            # after the new file is in place: a kill here leaves one too many, never one too few
            for step in self.steps()[: -self.keep_last - 1]:
                self.path(step).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``: a hard link, or a copy where links are not known."""
    temporary = target.with_name(f".{target.name}.link.tmp")
    # link() replaces no file: the link is made beside the target and renamed onto it
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # rename() of two links to one file leaves both
