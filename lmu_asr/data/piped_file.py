"""Audio that comes through a pipe, kept in a file: headers are checked, and decoders seek."""

from __future__ import annotations

import contextlib
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmu_asr.data.importing.scratch import Scratch
from lmu_asr.errors import DataError, ModelError

STDIN = "-"
BLOCK = 1 << 20
MOST_BYTES = 4 << 30  # what WAV can hold


@contextlib.contextmanager
def regular_file(path: Path) -> Iterator[Path]:
    """Give a file as it is; of standard input (``-``) or of a named pipe, a temporary copy.

    The copy is removed at the end. Errors of the block name what was given, not the copy.

    Raises:
        DataError: standard input is closed or a terminal, the pipe cannot be read, or gives more
            than 4 GiB.
        OSError: the copy cannot be written.
    """
    if str(path) != STDIN and not _is_pipe(path):
        yield path
        return
    scratch = Scratch(Path(tempfile.gettempdir()), "lmu-asr-piped-")
    copy = scratch.folder / ("standard-input" if str(path) == STDIN else "named-pipe")
    with _opened(path) as source, open(copy, "wb") as kept:
        _copy(source, kept, path)
    try:
        yield copy
    except (DataError, ModelError) as error:
        raise type(error)(str(error).replace(str(copy), str(path))) from error
    finally:
        copy.unlink(missing_ok=True)


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):  # the reader of files says what is wrong
        return False


def _opened(path: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    if str(path) != STDIN:
        try:
            return open(path, "rb")
        except OSError as error:
            raise DataError(f"{path}: not readable: {error.strerror}") from error
    if sys.stdin is None or sys.stdin.closed:
        raise DataError(f"{path}: standard input is closed")
    if sys.stdin.isatty():
        raise DataError(f"{path}: standard input is a terminal: want audio of a file or a pipe")
    return contextlib.nullcontext(sys.stdin.buffer)


def _copy(source: IO[bytes], kept: IO[bytes], path: Path) -> None:
    count = 0
    while block := _read(source, path):
        count += len(block)
        if count > MOST_BYTES:
            raise DataError(f"{path}: more than {MOST_BYTES >> 30} GiB came: cut it into files")
        kept.write(block)


def _read(source: IO[bytes], path: Path) -> bytes:
    try:
        return source.read(BLOCK)
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error
