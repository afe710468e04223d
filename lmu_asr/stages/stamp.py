"""Stamps: what a stage was made from, so that a re-run is cheap and right.

The key of a stage hashes its configuration sections, the source code of the rooms that it uses,
its input files (path, size, time of change) and the keys of the stages before it. The stamp also
lists the outputs with size and time of change: an output that was removed, cut or replaced makes
the stage run again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmu_asr.data.rows import Rows
from lmu_asr.errors import DocumentError
from lmu_asr.files import fingerprint, read_json, write_json
from lmu_asr.records import record

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Stamp:
    """What one finished stage was made from and what it left."""

    key: str
    parts: dict[str, Any]
    outputs: dict[str, list[int]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the stamp: the last act of a stage."""
        write_json(path, {"key": self.key, "parts": self.parts, "outputs": self.outputs})

    @staticmethod
    def load(path: Path) -> Stamp | None:
        """Read a stamp; a missing or broken one is None, so that the stage runs again."""
        try:
            return record(Stamp, read_json(path), str(path))
        except (OSError, DocumentError):
            return None

    def changed(self, other: Stamp) -> list[str]:
        """Names of the parts in which two stamps differ."""
        names = sorted(set(self.parts) | set(other.parts))
        return [name for name in names if self.parts.get(name) != other.parts.get(name)]

    def broken_outputs(self, folder: Path) -> list[str]:
        """Outputs that are missing or are not the files that the stage left.

        Their names are relative to ``folder``, the stamp's own, so that data can be moved.
        """
        return [
            str(folder / name)
            for name, state in self.outputs.items()
            if not state or file_state(folder / name)[: len(state)] != state
        ]


def make_stamp(
    config: dict[str, Any],
    rooms: Sequence[str],
    inputs: Iterable[Path],
    folder: Path,
    upstream: dict[str, str],
    facts: dict[str, str],
) -> Stamp:
    """Describe what a stage is about to be made from; paths below ``folder`` count relative to it."""
    parts: dict[str, Any] = {f"config {name}": fingerprint(value) for name, value in config.items()}
    parts["code"] = code_hash(rooms)
    parts["inputs"] = _states_fingerprint(inputs, folder)
    parts.update({f"stage {name}": key for name, key in upstream.items()})
    parts.update(facts)
    return Stamp(fingerprint(parts), parts)


def _states_fingerprint(paths: Iterable[Path], folder: Path) -> str:
    """Fingerprint of the sorted names and states of files, of which there may be millions."""
    states: Rows[tuple[str, list[int]]] = Rows(
        lambda state: state[0], ((_name(p, folder), file_state(p)) for p in paths)
    )
    digest = hashlib.sha256(b"[")
    for number, state in enumerate(states.by_key()):
        text = json.dumps(state, ensure_ascii=False)
        digest.update((f", {text}" if number else text).encode("utf-8", "surrogatepass"))
    digest.update(b"]")
    return digest.hexdigest()


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


def output_states(
    outputs: Iterable[Path], folder: Path, by_size: bool = False
) -> dict[str, list[int]]:
    """State of every output file, of every file below an output directory; size alone if asked."""
    found: dict[str, list[int]] = {}
    for path in outputs:
        for file in _files(path):
            name = os.path.relpath(file, folder)
            found[name] = file_state(file)[: 1 if by_size else 2]
    return dict(sorted(found.items()))


def code_hash(rooms: Sequence[str]) -> str:
    """SHA-256 over the source files of some rooms of the package."""
    digest = hashlib.sha256()
    for room in sorted(rooms):
        path = PACKAGE / room
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in CODE)
        for file in files:
            digest.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


CODE = (".py", ".cpp", ".h")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
