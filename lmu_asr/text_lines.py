"""Lines of the user's text files: one reader for lists, lexica, ARPA files and language-model text."""

from __future__ import annotations

import codecs
import gzip
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmu_asr.errors import DataError, LmuAsrError

LONGEST_LINE = 1 << 20  # bytes: a file without line feeds must not fill the memory
_GZIP = b"\x1f\x8b"


def text_lines(
    path: str | Path, error: type[LmuAsrError] = DataError, longest: int = LONGEST_LINE
) -> Iterator[tuple[int, str]]:
    r"""Yield ``(number, line)`` of a UTF-8 text file, numbered from 1, without the line's end.

    Only ``\n`` and ``\r\n`` end a line. A byte-order mark is skipped. A file that starts as gzip
    does is decompressed, whatever its name.

    Args:
        path: the file.
        error: the class of the error to raise.
        longest: bytes of the longest line that is taken.

    Raises:
        error: with file and line: not readable, not UTF-8, binary, a line that is too long, or a
            compressed file that is cut short or damaged.
    """
    number = 0
    try:
        with _opened(Path(path)) as stream:
            while raw := stream.readline(longest + 1):
                number += 1
                if number == 1 or len(raw) > longest or b"\0" in raw:
                    raw = _checked(raw, f"{path}:{number}", number == 1, error, longest)
                yield number, raw.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as fault:
        byte = fault.object[fault.start]
        raise error(
            f"{path}:{number}: byte {byte:#04x} is not UTF-8: "
            "convert the file, for example with iconv"
        ) from fault
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise error(
            f"{path}:{number + 1}: the compressed file is cut short or damaged: {fault}"
        ) from fault
    except OSError as fault:
        raise error(f"{path}: cannot be read: {fault.strerror or fault}") from fault


def filled_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
    """Yield the lines of :func:`text_lines` that are not blank, under their numbers in the file."""
    return ((n, line) for n, line in text_lines(path, longest=longest) if line.strip(" \t\r"))


def read_transcripts(path: Path) -> Iterator[str]:
    """Yield the texts of ``<split>_text`` as stage 1 writes it: ``id text``, one utterance a line.

    Raises:
        DataError: no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no transcripts; run stage 1 (features) first")
    for _, line in text_lines(path, longest=sys.maxsize - 1):
        yield line.partition(" ")[2]


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    with open(path, "rb") as stream:
        packed = stream.read(2) == _GZIP
    return gzip.open(path, "rb") if packed else open(path, "rb")


def _checked(raw: bytes, where: str, first: bool, error: type[LmuAsrError], longest: int) -> bytes:
    """Return a line without a byte-order mark, or refuse what is no line of UTF-8 text."""
    if len(raw) > longest:
        raise error(f"{where}: a line of more than {longest} bytes: is this the right file?")
    if first and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise error(f"{where}: UTF-16, not UTF-8: convert the file, for example with iconv")
    if b"\0" in raw:
        raise error(f"{where}: a NUL byte: this is no text file")
    return raw.removeprefix(codecs.BOM_UTF8) if first else raw
