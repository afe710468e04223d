"""Atomic writes, deterministic compression and fingerprints: what every artefact is made with."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lmu_asr.errors import DataError, DocumentError

LARGEST_JSON = 1 << 30  # bytes of one document: our own are smaller, of the largest corpora too
DEEPEST_JSON = 60  # lists and objects in each other
# temporary files of this process, and of those it was forked from, which are not its to remove
_OPEN: dict[str, int] = {}
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp(\..*)?")


def discard_temporaries() -> None:
    """Remove the temporary files that this process is writing, before it leaves in the middle."""
    for name, pid in list(_OPEN.items()):
        if pid == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(name)


def remove_leftovers(folder: Path, deep: bool = False) -> None:
    """Remove the temporary files that killed processes left in ``folder``, or below it too.

    The caller holds the folder: what another process writes there at this moment would go as well.
    """
    for path in folder.rglob(".*") if deep else folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and move it into place.

    On any error the temporary file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:])
    # in the same directory: os.replace is atomic within one file system only
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{suffix}", dir=path.parent)
    os.close(fd)
    _OPEN[name] = os.getpid()
    try:
        yield Path(name)
        _fsync(name)
        # mkstemp makes files that the owner alone can read
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
        # the new name is safe from a power cut only once the directory is on disk
        _fsync(path.parent)
    # KeyboardInterrupt and SystemExit too must leave no temporary file
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    finally:
        _OPEN.pop(name, None)


@contextlib.contextmanager
def atomic_open(path: str | Path, mode: str = "w", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open ``path`` for writing through a temporary file; it appears whole or not at all."""
    if "b" not in mode:
        kwargs.setdefault("encoding", "utf-8")
    with atomic_path(path) as temporary, open(temporary, mode, **kwargs) as stream:
        yield stream


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` atomically."""
    for again in (True, False):
        try:
            with atomic_open(path, "wb") as stream:
                stream.write(data)
            return
        except FileNotFoundError:
            # a run that starts here removes what killed ones left, and may take this for that
            if not again:
                raise


def write_json(path: str | Path, obj: Any) -> None:
    """Write ``obj`` as indented JSON with sorted keys, atomically."""
    atomic_write_bytes(path, _json_bytes(obj, indent=2, sort_keys=True))


def read_json(path: str | Path) -> Any:
    """Read one JSON document.

    Raises:
        DocumentError: not UTF-8, not JSON, too large, or too deep.
        OSError: the file cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise DocumentError(f"{path}: {size} bytes, {LARGEST_JSON} are the most of a JSON document")
    return parse_json(path.read_bytes(), str(path))


def parse_json(data: str | bytes, where: str) -> Any:
    """Return the value of a JSON text; ``where`` names it in errors.

    Raises:
        DocumentError: not UTF-8, not JSON, or too deep.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text)
    except RecursionError:
        raise DocumentError(f"{where}: JSON with more than {DEEPEST_JSON} levels") from None
    except ValueError as error:  # no UTF-8, no JSON, a number of thousands of digits
        raise DocumentError(f"{where}: not valid JSON: {error}") from error
    # fewer brackets cannot be nested deeper, so that most documents need no walk
    if text.count("[") + text.count("{") > DEEPEST_JSON:
        _check_depth(value, where)
    return value


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(DEEPEST_JSON + 1):
        level = [
            item
            for node in level
            if isinstance(node, (dict, list))
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise DocumentError(f"{where}: JSON with more than {DEEPEST_JSON} levels")


def write_jsonl(path: str | Path, items: Iterable[dict[str, Any]]) -> int:
    """Write dictionaries as JSON lines, gzip-compressed when ``path`` ends in ``.gz``.

    The bytes depend on the items alone (no time stamp in the gzip header). Returns the count.
    """
    count = 0
    with atomic_open(path, "wb") as raw, _maybe_gzip(raw, str(path).endswith(".gz")) as stream:
        for item in items:
            stream.write(_json_bytes(item))
            count += 1
    return count


def _json_bytes(obj: Any, **kwargs: Any) -> bytes:
    """One JSON document and a line feed, UTF-8 but for names of files that are not."""
    try:
        return json.dumps(obj, ensure_ascii=False, **kwargs).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(obj, **kwargs).encode() + b"\n"  # \udcff reads back as the same name


@contextlib.contextmanager
def _maybe_gzip(raw: IO[bytes], compress: bool) -> Iterator[IO[bytes]]:
    if not compress:
        yield raw
        return
    with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=6) as stream:
        # GzipFile compresses and sums each write on its own: slow for many short lines
        buffered = io.BufferedWriter(stream, 1 << 20)  # type: ignore[type-var]
        yield buffered
        buffered.flush()


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every directory below ``folder``, itself too, with the sorted names of its files.

    Links are followed, and each directory is read once, under its own name where it has one below
    ``folder``: so neither circles nor second names of a directory repeat files.

    Raises:
        DataError: a directory cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    waiting, links = [Path(folder)], list[Path]()
    while waiting or links:
        place = waiting.pop() if waiting else links.pop(0)
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            names = [entry.name for entry in entries if _is(entry.is_file)]
            folders = [entry for entry in entries if _is(entry.is_dir)]
        except OSError as error:
            raise DataError(f"{place}: cannot be read: {error.strerror}") from error
        yield place, names
        waiting.extend(place / entry.name for entry in reversed(folders) if not entry.is_symlink())
        links.extend(place / entry.name for entry in folders if entry.is_symlink())


def files_below(folder: Path, pattern: str = "*") -> Iterator[Path]:
    """Yield the files below ``folder`` that match ``pattern``, through links too (see :func:`walk`)."""
    for place, names in walk(folder):
        yield from (p for p in (place / name for name in names) if p.match(pattern))


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself is nothing
            raise
        return False


def file_kind(path: str | Path) -> str:
    """What a path is, links followed: ``file``, ``directory``, ``FIFO``, ``socket`` or ``device``.

    Raises:
        OSError, ValueError: as of ``Path.stat``.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "FIFO" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(obj: Any) -> str:
    """SHA-256 of the canonical JSON of ``obj``, in hexadecimal."""
    text = json.dumps(obj, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # names of files


def _fsync(path: str | Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _umask() -> int:
    # the mask can be read only by setting it
    value = os.umask(0)
    os.umask(value)
    return value
