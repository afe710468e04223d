"""Records of CSV and TSV tables, each under the number of its first line.

CSV is that of RFC 4180: a field that begins with ``"`` ends at the next single ``"``, ``""`` within
stands for one, and commas and line ends belong to it. In TSV quotes are text. Python's ``csv`` is not
used: it passes over a quote that is never closed, and its limit of a field counts for the process.
Lines end as in other lists, or all of them with a lone carriage return.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmu_asr.errors import DataError
from lmu_asr.text_lines import LONGEST_LINE, text_lines

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "'|'"}
Record = tuple[int, list[str]]  # number of the first line, fields


def tsv_records(path: Path) -> Iterator[Record]:
    """Yield the records of a TSV file; empty lines are passed over."""
    lines = text_lines(path, lone_returns=True)
    return ((number, line.split("\t")) for number, line in lines if line.strip())


def csv_records(path: Path, separator: str = ",") -> Iterator[Record]:
    """Yield the records of a CSV file; empty lines are passed over.

    Args:
        path: the file.
        separator: one character between fields.

    Raises:
        DataError: with file and line: a quote that is never closed, or text after a closed one.
    """
    lines = text_lines(path, lone_returns=True)
    for number, line in lines:
        if '"' in line:
            yield number, _fields(f"{path}:{number}", line, lines, separator)
        elif line.strip():
            yield number, line.split(separator)


def _fields(where: str, line: str, lines: Iterator[tuple[int, str]], separator: str) -> list[str]:
    """Fields of a record that starts with ``line``; those with line ends go on in ``lines``."""
    fields, place = list[str](), 0
    while True:
        if line.startswith('"', place):
            field, line, place = _quoted(where, line, place + 1, lines)
        else:
            end = line.find(separator, place)
            end = len(line) if end < 0 else end
            field, place = line[place:end], end
        fields.append(field)
        if place == len(line):
            return fields
        if line[place] != separator:
            raise DataError(
                f"{where}: field {len(fields)} goes on after its closing quote "
                f"({line[place : place + 20]!r}): a quote within quotes is written twice"
            )
        place += 1


def _quoted(
    where: str, line: str, place: int, lines: Iterator[tuple[int, str]]
) -> tuple[str, str, int]:
    """Return a field whose quote was opened, the line that it ends in, and the place after it."""
    parts, size = list[str](), 0
    while True:
        end = line.find('"', place)
        if end >= 0 and line.startswith('"', end + 1):
            parts.append(line[place : end + 1])
            place = end + 2
        elif end >= 0:
            parts.append(line[place:end])
            return "".join(parts), line, end + 1
        else:
            parts += [line[place:], "\n"]
            size += len(line) + 1
            number, line = next(lines, (0, ""))
            place = 0
            if not number or size > LONGEST_LINE:
                raise DataError(f"{where}: a quote is opened and never closed")
