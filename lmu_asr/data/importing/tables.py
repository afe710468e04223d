"""Import of lists: JSON lines, CSV and TSV tables."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from lmu_asr.data.importing.audio_paths import locate_audio
from lmu_asr.data.importing.csv_records import SEPARATORS, Record, csv_records, tsv_records
from lmu_asr.data.importing.list_names import WORDS, spelling_of
from lmu_asr.data.manifests import Manifests, Utterance, from_utterances
from lmu_asr.errors import DataError
from lmu_asr.text_lines import LARGEST_NUMBER, filled_lines, plain_number

# the names that lists in the wild use for the same column, ours first, in any case
COLUMNS = {
    "key": ("key", "id", "utt", "utt_id", "utterance"),
    "source": ("source", "audio", "audio_filepath", "wav", "path", "file", "audio_path"),
    "target": ("target", "text", "transcript", "sentence", "txt"),
    "speaker": ("speaker", "spk", "speaker_id", "client_id"),
    "start": ("start", "begin", "offset"),
    "end": ("end",),
    "duration": ("duration",),
    "channel": ("channel",),
    "split": ("split",),
}
Row = dict[str, Any]
Locate = Callable[..., tuple[Path, str]]


def read_json_lines(path: Path, cache: Path | None = None) -> Manifests:
    """Read JSON lines with ``key source target``, or the names that other toolkits use.

    Raises:
        DataError: a line is not a JSON object, lacks a column, or a value is of the wrong kind.
    """
    return read_rows(path, json_rows(path), cache)


def read_table(path: Path, cache: Path | None = None) -> Manifests:
    """Read a CSV or TSV table whose first line names the columns.

    Raises:
        DataError: a column is missing or named twice, or a line has not as many fields.
    """
    return read_rows(path, table_rows(path), cache)


def read_rows(path: Path, rows: Iterable[tuple[str, Row]], cache: Path | None) -> Manifests:
    """Read rows of a list: where each is, and its values by column.

    Raises:
        DataError: as :func:`utterances`.
    """
    locate = functools.partial(locate_audio, base=path.resolve().parent, cache=cache)
    return from_utterances(utterances(path, rows, locate), path.name)


def list_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield where each row of a list of text is, and its values by column."""
    return table_rows(path) if path.suffix.lower() in (".csv", ".tsv") else json_rows(path)


def json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the objects of JSON lines.

    Raises:
        DataError: a line that is no object, or no line.
    """
    is_empty = True
    for number, line in filled_lines(path):
        row = json_value(line, f"{path}:{number}")
        if not isinstance(row, dict):
            hint = "; one object a line is wanted (jq -c '.[]' makes lines of an array)"
            raise DataError(
                f"{path}:{number}: want an object, got {kind(row)}"
                + (hint if isinstance(row, list) else "")
            )
        is_empty = False
        yield f"{path}:{number}", row
    if is_empty:
        raise DataError(f"{path}: has no utterance: every line is blank, or there is none")


def json_value(text: str, where: str) -> Any:
    """Parse JSON as its standard has it.

    Raises:
        DataError: not JSON, NaN or Infinity, a key that occurs twice, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{where}: not JSON: {reason}") from error


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {repeated!r} occurs twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON; want null or a number")


def table_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a CSV or TSV table by column.

    Raises:
        DataError: columns without a name or with one name, too many fields in a row, or too few; no row.
    """
    records = _records(path)
    first, header = next(records, (1, []))
    header = [name.strip() for name in header]
    if any("\r" in name for name in header):
        raise DataError(f"{path}:{first}: carriage returns and line feeds both end lines: want one")
    folded = Counter(name.casefold() for name in header)
    for name in header:
        if not name or folded[name.casefold()] > 1:
            reason = f"the column '{name}' occurs twice" if name else "a column has no name"
            raise DataError(f"{path}:{first}: {reason}; found {', '.join(header)}")
    if not header:
        raise DataError(f"{path}: empty; want a first line that names the columns")
    check_columns(header, f"{path}:{first}")
    is_empty = True
    for number, fields in records:
        if len(fields) != len(header):
            quote = (
                ""
                if path.suffix.lower() == ".tsv"
                else '; text with a comma goes in quotes: "a, b"'
            )
            raise DataError(
                f"{path}:{number}: {len(fields)} fields, want {len(header)} "
                f"({', '.join(header)}){quote}"
            )
        is_empty = False
        yield f"{path}:{number}", dict(zip(header, fields, strict=True))
    if is_empty:
        raise DataError(f"{path}: has no utterance: no row follows the names of the columns")


def _records(path: Path) -> Iterator[Record]:
    """Return the records of a table by its suffix, or by the separator that its header has."""
    is_tsv = path.suffix.lower() == ".tsv"
    suffix, own = (".tsv", "\t") if is_tsv else (".csv", ",")
    seen = [
        c
        for c in SEPARATORS
        if _has_columns(tsv_records(path) if c == own == "\t" else csv_records(path, c))
    ]
    if own in seen or len(seen) != 1:
        return tsv_records(path) if is_tsv else csv_records(path)
    logging.info(
        "%s: %s separates the columns, though its name ends in %s",
        path,
        SEPARATORS[seen[0]],
        suffix,
    )
    return csv_records(path, seen[0])


def _has_columns(records: Iterator[Record]) -> bool:
    """Whether the first record names columns for the audio and for the text."""
    try:
        _, header = next(records, (1, []))
    except DataError:
        return False
    names = {name.strip().casefold() for name in header}
    return not any(names.isdisjoint(COLUMNS[name]) for name in ("source", "target"))


def check_columns(
    found: Iterable[str], where: str, wanted: Iterable[str] = ("source", "target")
) -> None:
    """Refuse columns without one for the audio, or for the text.

    Raises:
        DataError: with the names that are known, and those found.
    """
    found = list(found)
    names = {column.strip().casefold() for column in found}
    for name in wanted:
        if names.isdisjoint(COLUMNS[name]):
            raise DataError(
                f"{where}: no column '{name}' (or {', '.join(COLUMNS[name][1:])}); "
                f"found {', '.join(found) or 'none'}"
            )


def utterances(path: Path, rows: Iterable[tuple[str, Row]], locate: Locate) -> Iterator[Utterance]:
    """Yield the utterances of a list.

    Args:
        path: the list, for messages.
        rows: where each row is, and its values by column.
        locate: returns the path and the address of audio by its name.

    Raises:
        DataError: a row without audio, no row with a text, a value of the wrong kind, or some
            rows with a split and some without.
    """
    first: tuple[str, Row] | None = None
    has_text, with_split, without_split = False, "", ""
    names, doubles, passed = set[str](), set[str](), _PassedOver()
    for where, row in rows:
        row = _lowered(row, where)
        if row.keys() - names:  # seldom: rows of a list have the same
            names |= row.keys()
            _say_doubles(path, row, doubles)
        first = first or (where, row)
        has_text = has_text or any(name in row for name in COLUMNS["target"])
        utterance = _utterance(where, row, locate)
        if utterance.split:
            with_split = with_split or where
        else:
            without_split = without_split or where
        if with_split and without_split:
            raise DataError(
                f"{without_split}: no split, but {with_split} has one: "
                "give every row a split, or none"
            )
        yield utterance
        passed.add(row)
    if first and not has_text:
        check_columns(first[1], first[0])
    if not with_split:
        passed.say(path)


class _PassedOver:
    """Columns ``set`` and ``subset`` all of whose values are words for train, dev and test."""

    def __init__(self) -> None:
        self._words: dict[str, set[str]] = {"set": set(), "subset": set()}

    def add(self, row: Row) -> None:
        """Look at one row, its columns in lower case."""
        for name in list(self._words):
            word = row.get(name)
            if isinstance(word, str) and spelling_of(word, [group[0] for group in WORDS]):
                self._words[name].add(word)
            else:
                del self._words[name]

    def say(self, path: Path) -> None:
        """Say that they do not split the list."""
        for name, words in self._words.items():
            logging.info(
                "%s: the column '%s' (%s) is not used: only a column 'split' says the splits; "
                "rename it to split if it does",
                *(path, name, ", ".join(sorted(words))),
            )


def _say_doubles(path: Path, row: Row, said: set[str]) -> None:
    """Say once which of several columns for one thing is used."""
    for name, known in COLUMNS.items():
        found = [column for column in known if column in row]
        if len(found) > 1 and name not in said:
            said.add(name)
            logging.info(
                "%s: the columns %s are all '%s': %s is used, the others where it is empty",
                *(path, ", ".join(found), name, found[0]),
            )


def _lowered(row: Row, where: str) -> Row:
    lowered = {key.strip().casefold(): value for key, value in row.items()}
    if len(lowered) < len(row):
        raise DataError(f"{where}: a column occurs twice, in other letters: {', '.join(row)}")
    return lowered


def _utterance(where: str, row: Row, locate: Locate) -> Utterance:
    source = _text(row, "source", where)
    if not source.strip():
        check_columns(row, where, ["source"])
        raise DataError(f"{where}: 'source' (the audio) is empty")
    start, end = _number(row, "start", where), _number(row, "end", where)
    duration, channel = _number(row, "duration", where), _number(row, "channel", where)
    if end is None and duration is not None:
        end = (start or 0.0) + duration
    if channel is not None and (channel != int(channel) or channel < 0):
        raise DataError(f"{where}: channel is {channel}, want 0, 1, ...")
    path, url = locate(source, where=where)
    return Utterance(
        id=_text(row, "key", where) or Path(source).stem,
        audio=path,
        text=_text(row, "target", where),
        speaker=_text(row, "speaker", where),
        start=start or 0.0,
        end=end,
        channel=None if channel is None else int(channel),
        url=url,
        split=_text(row, "split", where).strip(),
        where=where,
    )


def column(row: Row, name: str) -> Any:
    """Return the value of a column by any of its names; None where it is missing or empty."""
    return next((row[c] for c in COLUMNS[name] if row.get(c) not in (None, "")), None)


def _text(row: Row, name: str, where: str) -> str:
    """Return a text; whole numbers count as names, never as texts.

    Raises:
        DataError: another kind of value, or half of a character.
    """
    value = column(row, name)
    if value is None:
        return ""
    # not isinstance, to which True is an int
    if type(value) is int and name in ("key", "speaker"):
        value = str(value) if abs(value) < 10**18 else value
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {kind(value)}, want a text")
    if name in ("target", "split") and any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"{where}: {name} has half of a surrogate pair: {value[:40]!r}")
    return value


def _number(row: Row, name: str, where: str) -> float | None:
    value = column(row, name)
    if value is None:
        return None
    try:
        number = plain_number(value) if isinstance(value, str) else float(value)
        number = math.nan if isinstance(value, bool) else number
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < LARGEST_NUMBER:
        shown = kind(value) if isinstance(value, (list, dict)) else repr(value)[:40]
        raise DataError(f"{where}: {name} is {shown}, want a number")
    return number


def kind(value: Any) -> str:
    """Say what kind of JSON value this is, with a number or boolean itself."""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value) if abs(value) < 10**18 else "a number"
    names = {list: "a list", dict: "an object", str: "a text", type(None): "null"}
    return names.get(type(value), type(value).__name__)
