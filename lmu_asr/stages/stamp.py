"""Stamps: what a stage was made from, so that a re-run is cheap and right.

The key of a stage hashes the options that shape what it makes, the code that it runs
(:mod:`lmu_asr.stages.code`), the content of its input files and the keys of the stages before it. The
stamp also lists the outputs. Times of files only save reading: where size and time are those of the
stamp a file is not read; where the time alone differs, as in a copy, its SHA-256 decides.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmu_asr.config_paths import PROJECT
from lmu_asr.data.rows import Rows
from lmu_asr.errors import DocumentError
from lmu_asr.files import file_kind, fingerprint, read_json, sha256_file, write_json
from lmu_asr.records import record

FORMAT = 2
MOST_READ = 64 << 30  # bytes of inputs; of more, times are taken for the content, as make does
THREADS = 8  # that hash files: the disk is the limit beyond
TOGETHER = 1000  # files hashed before more are listed
UNREAD = "content not read"

State = tuple[str, str, int, int]  # name in the stamp, path, bytes, time of change; -1: missing


@dataclass(frozen=True)
class Stamp:
    """What one finished stage was made from and what it left.

    Attributes:
        key: fingerprint of ``parts``.
        parts: what it was made from.
        outputs: size and time of change of each output, or its size alone.
        contents: SHA-256 of outputs.
        inputs: fingerprints of the names and sizes of inputs, and of these with times.
        code: digest of the code, by module.
        format: 1 of versions that compared rooms of code, and times.
    """

    key: str
    parts: dict[str, Any]
    outputs: dict[str, list[int]] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def save(self, path: Path) -> None:
        """Write the stamp: the last act of a stage."""
        write_json(path, vars(self))

    @staticmethod
    def load(path: Path) -> Stamp | None:
        """Read a stamp; a missing or broken one is None, so that the stage runs again."""
        try:
            values = read_json(path)
            if isinstance(values, dict):
                values.setdefault("format", 1)
            return record(Stamp, values, str(path))
        except (OSError, DocumentError):
            return None

    def changed(self, other: Stamp) -> list[str]:
        """Names of the parts in which two stamps differ; of code, the modules."""
        names = sorted(set(self.parts) | set(other.parts))
        found = [name for name in names if self.parts.get(name) != other.parts.get(name)]
        modules = sorted(set(self.code) | set(other.code))
        edited = [m for m in modules if self.code.get(m) != other.code.get(m)]
        if "code" in found and self.code and other.code and edited:
            more = f" and {len(edited) - 3} more" if len(edited) > 3 else ""
            found[found.index("code")] = f"code of {', '.join(edited[:3])}{more}"
        return found

    def broken_outputs(self, folder: Path) -> list[str]:
        """Outputs that are missing or are not the files that the stage left.

        Their names are relative to ``folder``, the stamp's own, so that data can be moved.
        """
        names = (name for name in self.outputs if not self._holds(folder, name))
        return [str(folder / name) for name in names]

    def _holds(self, folder: Path, name: str) -> bool:
        state, now = self.outputs[name], file_state(folder / name)
        if not state or now[: len(state)] == state:
            return bool(state)
        same_size = len(state) > 1 and now[:1] == state[:1]
        wanted = self.contents.get(name)
        return same_size and bool(wanted) and content(str(folder / name), *now) == wanted

    def with_times_of(self, folder: Path, now: Stamp) -> Stamp:
        """The stamp with the times that outputs and inputs have now, so that they need no reading."""
        outputs = {
            name: file_state(folder / name)[: len(state)] or state
            for name, state in self.outputs.items()
        }
        return replace(self, outputs=outputs, inputs=now.inputs)


def make_stamp(
    options: Mapping[str, Any],
    code: Mapping[str, str],
    inputs: Iterable[Path],
    folder: Path,
    upstream: Mapping[str, str],
    facts: Mapping[str, str],
    old: Stamp | None = None,
    may_skip: bool = False,
) -> Stamp:
    """Describe what a stage is about to be made from.

    Args:
        options: those that shape its outputs, by section.
        code: digests of what it runs.
        inputs: files; names below ``folder`` and below the project count relative to it.
        folder: what ``inputs`` are relative to.
        upstream: keys of the stages before it.
        facts: what else it depends on.
        old: the stamp that it left the last time.
        may_skip: leave inputs unread where they cannot be those of ``old``.
    """
    parts: dict[str, Any] = {f"config {name}": fingerprint(v) for name, v in options.items()}
    parts["code"] = fingerprint(code)
    parts["inputs"], states = _inputs(inputs, folder, old, may_skip)
    parts.update({f"stage {name}": key for name, key in upstream.items()})
    parts.update(facts)
    return Stamp(fingerprint(parts), parts, inputs=states, code=dict(code))


def _inputs(
    paths: Iterable[Path], folder: Path, old: Stamp | None, may_skip: bool
) -> tuple[str, dict[str, str]]:
    """Fingerprint of the content of inputs, of which there may be millions, and of their states."""
    rows: Rows[State] = Rows(lambda row: row[0], (_state(path, folder) for path in paths))
    sizes = _digest((name, size) for name, _, size, _ in rows.by_key())
    times = _digest((name, size, time) for name, _, size, time in rows.by_key())
    states = {"sizes": sizes, "times": times}
    if old and old.inputs.get("times") == times:
        return str(old.parts.get("inputs")), states
    # with other names or sizes the stage runs anyway, and reads them after it
    if may_skip and (old is None or old.inputs.get("sizes") != sizes):
        return UNREAD, states
    if sum(size for _, _, size, _ in rows.by_key()) > MOST_READ:
        return f"times {times}", states
    return _digest(_contents(rows.by_key())), states


def _state(path: Path, folder: Path) -> State:
    size, time = file_state(path) or (-1, -1)
    # relative names: a project that was moved or copied keeps its stamps
    base = next((b for b in (folder, PROJECT) if path.is_relative_to(b)), None)
    return (str(path.relative_to(base) if base else path), str(path), size, time)


def _digest(rows: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        # surrogates stand for the bytes of file names that are not UTF-8
        text = json.dumps(row, ensure_ascii=False) + "\n"
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _contents(rows: Iterator[State]) -> Iterator[tuple[str, str]]:
    """Names with the SHA-256 of their files, in order."""
    with ThreadPoolExecutor(THREADS) as pool:  # hashing leaves the interpreter free
        while some := list(itertools.islice(rows, TOGETHER)):
            found = pool.map(lambda row: content(*row[1:]), some)
            yield from ((row[0], digest) for row, digest in zip(some, found, strict=True))


@functools.lru_cache(maxsize=10000)
def content(path: str, size: int, time: int) -> str:
    """SHA-256 of a file of this size and time of change; of what cannot be read, the two.

    What is no regular file counts by its kind: a read of a FIFO or of /dev/zero does not end.
    """
    if size < 0:
        return "missing"
    try:
        kind = file_kind(path)
        return kind if kind not in ("file", "directory") else sha256_file(path)
    except OSError:  # a directory, or no permission
        return f"{size} {time}"


def file_state(path: Path) -> list[int]:
    """Size in bytes and time of change in nanoseconds; empty for a missing file."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except ValueError:  # a name with a NUL, in a damaged stamp
        return []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return []
        raise
    return [status.st_size, status.st_mtime_ns]


def with_outputs(
    stamp: Stamp, outputs: Iterable[Path], folder: Path, by_size: bool = False
) -> Stamp:
    """The stamp of a finished stage: every output file, of a directory all below; size alone if asked."""
    files = sorted({file for path in outputs for file in _files(path)})
    rows = [(os.path.relpath(f, folder), str(f), *(file_state(f) or (-1, -1))) for f in files]
    states = {name: [size] if by_size else [size, time] for name, _, size, time in rows}
    found = {} if by_size else dict(_contents(iter(rows)))
    return replace(stamp, outputs=states, contents=found)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # names with a dot: stamps, locks, and temporary files
    return sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
