"""Lines of the user's text files: one reader for lists, lexica, ARPA files and language-model text."""

from __future__ import annotations

import codecs
import gzip
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmu_asr.errors import DataError, LmuAsrError

LONGEST_LINE = 1 << 20  # bytes: a file without line feeds must not fill the memory
_BLOCK = 1 << 17
_END = b"\n"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
LARGEST_NUMBER = 1e9  # seconds, channels
_GZIP = b"\x1f\x8b"


def text_lines(
    path: str | Path,
    error: type[LmuAsrError] = DataError,
    longest: int = LONGEST_LINE,
    lone_returns: bool = False,
) -> Iterator[tuple[int, str]]:
    r"""Yield ``(number, line)`` of a UTF-8 text file, numbered from 1, without the line's end.

    Only ``\n`` and ``\r\n`` end a line. A byte-order mark is skipped. A file that starts as gzip
    does is decompressed, whatever its name.

    Args:
        path: the file.
        error: the class of the error to raise.
        longest: bytes of the longest line that is taken.
        lone_returns: whether a file that begins with carriage returns and no line feed has lines that
            end so (old Macs, some spreadsheets).

    Raises:
        error: with file and line: not readable, not UTF-8, binary, a line that is too long, or a
            compressed file that is cut short or damaged.
    """
    number = 0
    try:
        with _opened(Path(path)) as stream:
            for block in _blocks(stream, longest, lone_returns):
                lines = _decoded(block, Path(path), number, error, longest).split("\n")
                for line in lines[:-1] if block.endswith(b"\n") else lines:
                    number += 1
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise error(
            f"{path}:{number + 1}: the compressed file is cut short or damaged: {fault}"
        ) from fault
    except OSError as fault:
        raise error(f"{path}: cannot be read: {fault.strerror or fault}") from fault


def language_lines(
    path: str | Path, error: type[LmuAsrError] = DataError
) -> Iterator[tuple[int, str]]:
    """Yield the lines of :func:`text_lines` of a file in which every line is read on its own.

    Raises:
        error: also for carriage returns within a line, which would make one line of several.
    """
    for number, line in text_lines(path, error):
        if "\r" in line and "\r" in line.strip("\r"):
            raise error(
                f"{path}:{number}: a carriage return within the line: lines must end in a line feed; "
                "convert the file, for example with tr '\\r' '\\n'"
            )
        yield number, line


def filled_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
    """Yield the lines of :func:`text_lines` that are not blank, under their numbers in the file."""
    return ((n, line) for n, line in text_lines(path, longest=longest) if line.strip())


def plain_number(text: str) -> float:
    """Return the number that ``text`` is: decimal digits, a point, an exponent, and nothing else.

    Raises:
        ValueError: not such a number, as ``1_0``, ``nan`` and ``1e300`` are not.
    """
    text = text.strip(" \t")
    if not _NUMBER.fullmatch(text) or not abs(number := float(text)) < LARGEST_NUMBER:
        raise ValueError(f"{text!r:.40} is no number of seconds")
    return number


def read_transcripts(path: Path) -> Iterator[str]:
    """Yield the texts of ``<split>_text`` as stage 1 writes it: ``id text``, one utterance a line.

    Raises:
        DataError: no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no transcripts; run stage 1 (features) first")
    # our own file: a long line does not mean that it is the wrong one
    for _, line in text_lines(path, longest=sys.maxsize - 1):
        yield line.partition(" ")[2]


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    with open(path, "rb") as stream:
        packed = stream.read(2) == _GZIP
    return gzip.open(path, "rb") if packed else open(path, "rb")


def _blocks(stream: IO[bytes] | gzip.GzipFile, longest: int, lone_returns: bool) -> Iterator[bytes]:
    """Yield whole lines, many at a time, or the beginning of one that is too long."""
    rest, returns = b"", None if lone_returns else False
    while part := stream.read1(_BLOCK):  # type: ignore[union-attr]
        if returns is None:  # the first block tells
            returns = b"\r" in part and _END not in part
        part = part.replace(b"\r", _END) if returns else part
        end = part.rfind(b"\n") + 1
        if end:
            yield rest + part[:end]
            rest = part[end:]
        else:
            rest += part
            if len(rest) > longest:
                break
    if rest:
        yield rest


def _decoded(block: bytes, path: Path, before: int, error: type[LmuAsrError], longest: int) -> str:
    """Return the text of a block of lines that begins after ``before`` lines."""

    def where(offset: int) -> str:
        return f"{path}:{before + block.count(_END, 0, offset) + 1}"

    if before == 0:
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise error(f"{path}:1: UTF-16, not UTF-8: convert it, for example with iconv")
        block = block.removeprefix(codecs.BOM_UTF8)
    if (at := block.find(b"\0")) >= 0:
        raise error(f"{where(at)}: a NUL byte: this is no text file")
    if len(block) > longest:
        for number, line in enumerate(block.split(b"\n"), before + 1):
            if len(line) > longest:
                raise error(
                    f"{path}:{number}: a line of more than {longest} bytes: is this the right file?"
                )
    try:
        text = block.decode()
    except UnicodeDecodeError as fault:
        raise error(
            f"{where(fault.start)}: byte {block[fault.start]:#04x} is not UTF-8: "
            "convert the file, for example with iconv"
        ) from fault
    # a block ends at a line's end, so that no \r\n is cut in two
    return text.replace("\r\n", "\n") if "\r" in text else text
