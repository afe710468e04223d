"""Import of lists: JSON lines, CSV and TSV tables."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmu_asr.data.audio_paths import locate_audio
from lmu_asr.data.manifests import Manifests, Utterance, from_utterances
from lmu_asr.errors import DataError
from lmu_asr.text_lines import filled_lines

# the names that lists in the wild use for the same column, ours first
COLUMNS = {
    "key": ("key", "id", "utt", "utt_id", "utterance"),
    "source": ("source", "audio", "audio_filepath", "wav", "path", "file", "audio_path"),
    "target": ("target", "text", "transcript", "sentence", "txt"),
    "speaker": ("speaker", "spk", "speaker_id", "client_id"),
    "start": ("start", "begin", "offset"),
    "end": ("end",),
    "duration": ("duration",),
    "channel": ("channel",),
}


def read_json_lines(path: Path, cache: Path | None = None) -> Manifests:
    """Read JSON lines with ``key source target``, or the names that other toolkits use.

    Raises:
        DataError: a line is not a JSON object or lacks a column.
    """

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in filled_lines(path):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: want an object, got {type(row).__name__}")
            yield number, row

    return _read_rows(path, rows(), cache)


def read_table(path: Path, cache: Path | None = None) -> Manifests:
    """Read a CSV or TSV table whose first line names the columns.

    Raises:
        DataError: a column is missing, or a line has too few.
    """
    lines = (line for _, line in filled_lines(path))
    if path.name.endswith(".tsv"):  # quotes are text there
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(lines)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for row in reader:
            yield reader.line_num, {k: v for k, v in row.items() if v not in (None, "")}

    return _read_rows(path, rows(), cache)


def _read_rows(
    path: Path, rows: Iterator[tuple[int, dict[str, Any]]], cache: Path | None
) -> Manifests:
    locate = functools.partial(locate_audio, base=path.resolve().parent, cache=cache)
    return from_utterances((_row(f"{path}:{n}", row, locate) for n, row in rows), path.name)


def _row(where: str, row: dict[str, Any], locate: Callable[..., tuple[Path, str]]) -> Utterance:
    source = _column(row, "source")
    if source is None:
        raise DataError(
            f"{where}: no column 'source' (or {', '.join(COLUMNS['source'][1:])}); "
            f"found {', '.join(map(str, row))}"
        )
    start, end = _number(row, "start", where), _number(row, "end", where)
    duration, channel = _number(row, "duration", where), _number(row, "channel", where)
    if end is None and start is not None and duration is not None:
        end = start + duration
    path, url = locate(str(source), where=where)
    return Utterance(
        id=str(_column(row, "key") or Path(str(source)).stem),
        audio=path,
        text=str(_column(row, "target") or ""),
        speaker=str(_column(row, "speaker") or ""),
        start=start or 0.0,
        end=end,
        channel=None if channel is None else int(channel),
        url=url,
    )


def _column(row: dict[str, Any], name: str) -> Any:
    return next((row[c] for c in COLUMNS[name] if row.get(c) is not None), None)


def _number(row: dict[str, Any], name: str, where: str) -> float | None:
    value = _column(row, name)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} is {value!r}, want a number") from error
