"""Lists of text: what is read, what is refused and where, and that no row is lost in silence."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.importing.csv_records import csv_records
from lmu_asr.data.importing.importers import import_data, split_paths
from lmu_asr.data.importing.validate import validate_and_repair
from lmu_asr.errors import DataError, LmuAsrError
from tests.data.speech import write_audio

HEAD = "key,source,target"


def texts(path: Path) -> dict[str, str | None]:
    return {s.id: s.text for s in import_data(path).supervisions}


def test_quoted_fields(tmp_path: Path) -> None:
    long = "x" * 200_000  # more than Python's csv takes
    path = tmp_path / "a.csv"
    path.write_text(
        f'\ufeff Key, Source ,TEXT\r\n\r\na,a.wav,"one, ""two""\nthree"\r\n"b",b.wav,{long}\r\n'
        'c,c.wav,say "yes"\nd,d.wav,one\u2028two\x0cthree\n'
    )
    assert texts(path) == {
        "a": 'one, "two"\nthree',
        "b": long,
        "c": 'say "yes"',
        "d": "one\u2028two\x0cthree",
    }
    path = tmp_path / "a.tsv"
    path.write_text('key\tsource\ttarget\na\ta.wav\t"one", "two\n')
    assert texts(path) == {"a": '"one", "two'}


@pytest.mark.parametrize(
    ("name", "separator", "end"),
    [
        *(
            ("a.csv", ";", "\n"),
            ("a.csv", "\t", "\r\n"),
            ("a.csv", ",", "\r"),
            ("a.csv", "|", "\r"),
        ),
        *(("a.tsv", ",", "\n"), ("a.tsv", "\t", "\r")),
    ],
)
def test_separators_and_line_ends_are_those_of_the_header(tmp_path, caplog, name, separator, end):
    caplog.set_level("INFO")
    lines = [["key", "source", "target"], ["a", "a.wav", "one"], ["b", "b.wav", "two, three"]]
    if separator == ",":
        lines[2][2] = '"two, three"'
    path = tmp_path / name
    path.write_bytes((end.join(map(separator.join, lines)) + end).encode())
    assert texts(path) == {"a": "one", "b": "two, three"}
    usual = separator == {"a.csv": ",", "a.tsv": "\t"}[name]
    assert ("separates the columns, though its name ends in" in caplog.text) == (not usual)


def test_two_columns_for_one_thing_are_told(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "a.csv"
    path.write_text("path,audio,sentence,text\na.wav,b.wav,one,two\nc.wav,,three,\n")
    assert texts(path) == {"b": "two", "c": "three"}
    told = [r.getMessage() for r in caplog.records if "are all" in r.getMessage()]
    assert told == [
        f"{path}: the columns audio, path are all 'source': audio is used, the others where it is empty",
        f"{path}: the columns text, sentence are all 'target': text is used, the others where it is empty",
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text('a", \n\u2028'), min_size=2, max_size=4), min_size=1, max_size=5))
def test_csv_is_that_of_the_standard(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(records)
    path.write_text(text.getvalue(), newline="", encoding="utf-8")
    assert [fields for _, fields in csv_records(path)] == records


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEAD, "a,a.wav,left, then right"], r":2: 4 fields, want 3 .*in quotes"),
        ([HEAD, "a,a.wav,x", "b,b.wav"], r":3: 2 fields, want 3"),
        ([HEAD, 'a,a.wav,"one', "b,b.wav,two"], r":2: a quote is opened and never closed"),
        ([HEAD, 'a,a.wav,"one" two'], r":2: field 3 goes on after its closing quote \(' two'\)"),
        ([HEAD, "a,a.wav,o\0ne"], r":2: a NUL byte"),
        (["key,source,target,Key"], r":1: the column 'key' occurs twice"),
        (["key,,source,target"], r":1: a column has no name"),
        ([""], "empty; want a first line"),
        (["id,audio,words", "a,a.wav,x"], r":1: no column 'target' .*found id, audio, words"),
        (["key;audio|target"], r":1: no column 'source' .*found key;audio|target"),
        ([f"{HEAD},start", "a,a.wav,x,1_0"], r":2: start is '1_0', want a number"),
        ([f"{HEAD},start", "a,a.wav,x,\u0661"], r":2: start is '\u0661', want a number"),
        (
            ["key\rsource,target", "a,a.wav,x"],
            r":1: carriage returns and line feeds both end lines",
        ),
        ([f"{HEAD},start", "a,a.wav,x,1e400"], r":2: start is '1e400', want a number"),
        ([f"{HEAD},channel", "a,a.wav,x,0.5"], r":2: channel is 0.5, want 0, 1"),
        ([f"{HEAD},split", "a,a.wav,x,train", "b,b.wav,x,"], r":3: no split, but .*:2 has one"),
        ([f"{HEAD},split", "a,a.wav,x,", "b,b.wav,x,dev"], r":2: no split, but .*:3 has one"),
        ([HEAD, "a,,x"], r":2: 'source' \(the audio\) is empty"),
        ([HEAD, ",/,x"], r":2: an utterance without an id"),
    ],
)
def test_broken_tables(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="a.csv" + message if message[0] == ":" else message):
        import_data(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ('"text": NaN', "not JSON: NaN is no value"),
        ('"text": 7', "target is 7, want a text"),
        ('"text": true', "target is true, want a text"),
        ('"text": ["a"]', "target is a list, want a text"),
        ('"text": {"a": 1}', "target is an object, want a text"),
        ('"text": "a", "text": "b"', "not JSON: the key 'text' occurs twice"),
        ('"text": "a", "Text": "b"', "a column occurs twice, in other letters"),
        ('"text": "\\ud800"', "target has half of a surrogate pair"),
        ('"words": "a"', "no column 'target' .*found source, words"),
        ('"text": "a", "id": 1.5', "key is 1.5, want a text"),
        ('"text": "a", "id": [1]', "key is a list, want a text"),
        ('"text": "a", "duration": true', "duration is True, want a number"),
        ('"text": "a", "offset": ' + "9" * 400, "start is 9+, want a number"),
        ('"text": "a", "x": ' + "[" * 100_000, "not JSON: nested too deeply"),
        ('"text": "a"}{', "not JSON: Extra data"),
    ],
)
def test_broken_rows(tmp_path: Path, values: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"source": "a.wav", ' + values + "}\n")
    with pytest.raises(DataError, match=f"a.jsonl:1: {message}"):
        import_data(tmp_path / "a.jsonl")


def test_numbers_name_and_null_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 7, "wav": "a.wav", "text": null}\n{"wav": "b.wav", "text": "x"}\n')
    assert texts(path) == {"7": "", "b": "x"}


def test_duration_without_offset_is_from_the_start(tmp_path: Path) -> None:
    for name in "abc":
        write_audio(tmp_path / f"{name}.wav", 1.0)
    seconds = {"a": 0.4, "b": 1.05, "c": 1.2}
    lines = ({"wav": f"{n}.wav", "text": "x", "duration": s} for n, s in seconds.items())
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, lines)))
    found = import_data(tmp_path / "a.json")
    kept, report = validate_and_repair(found, "train", FeaturesConfig(), str.lower)
    assert {s.id: (s.start, s.duration) for s in kept.supervisions} == {
        "a": (0.0, 0.4),
        "b": (0.0, 1.0),
    }
    assert report.dropped["c"][0] == "segment past the end"


def test_names_are_escaped_and_that_is_said(tmp_path: Path, caplog) -> None:
    (tmp_path / "a.csv").write_text(
        "source,target,speaker\nwav/Recording 3.wav,x,Anna\u3000B\nwav/100%.wav,y,\n"
    )
    found = {s.id: s.speaker for s in import_data(tmp_path / "a.csv").supervisions}
    assert found == {"Recording%203": "Anna%E3%80%80B", "100%25": None}
    assert "a.csv: blanks, control characters and '%' in the names of 2 utt" in caplog.text
    (tmp_path / "a.jsonl").write_text(
        '{"id": "a\\u0000b", "source": "x\\u0000.wav", "text": "x"}\n'
        '{"id": "\\udcff", "source": "\\ud800.wav", "text": "x"}\n'
    )
    found = import_data(tmp_path / "a.jsonl")
    assert [s.id for s in found.supervisions] == ["a%00b", "%FF"]
    assert all("no such file" in reason for reason in found.problems.values())


def test_a_table_of_common_voice_finds_its_clips(tmp_path: Path) -> None:
    write_audio(tmp_path / "clips" / "a.wav")
    (tmp_path / "validated.tsv").write_text("client_id\tpath\tsentence\ns\ta.wav\tone\n")
    found = import_data(tmp_path / "validated.tsv")
    assert found.problems == {}
    assert [r.sources[0].source for r in found.recordings] == [str(tmp_path / "clips/a.wav")]


WHOLE = {
    "list.jsonl": "".join(
        json.dumps({"key": f"u{i}", "source": f"{i % 3}.wav", "target": f"text {i}"}) + "\n"
        for i in range(6)
    ),
    "list.csv": HEAD + "\n" + "".join(f'u{i},{i % 3}.wav,"text, {i}"\n' for i in range(6)),
    "list.tsv": "key\tsource\ttarget\n" + "".join(f"u{i}\t{i % 3}.wav\tt {i}\n" for i in range(6)),
    "text": "".join(f"u{i} text {i}\n" for i in range(6)),
}
EDIT = st.tuples(
    st.floats(0, 1),
    st.integers(0, 6),
    st.sampled_from(['"', "\n", ",", "\t", " ", "\u2028", "", "x"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for i in range(3):
        write_audio(folder / f"{i}.wav", 0.5, i)
    (folder / "kaldi").mkdir()
    scp = "".join(f"u{i} {folder}/{i % 3}.wav\n" for i in range(7))
    (folder / "kaldi" / "wav.scp").write_text(scp)
    return folder


def count_rows(name: str, text: str) -> int:
    """Rows by another reader."""
    lines = [line for line in text.split("\n") if line.strip()]
    if name == "list.csv":
        reader = csv.reader(io.StringIO(text, newline=""))
        return len([row for row in reader if "".join(row).strip()]) - 1
    if name == "text":
        return len(
            {f"u{i}" for i in range(7)}
            | {line.strip(" \t").split(" ")[0].split("\t")[0] for line in lines}
        )
    return len(lines) - (name == "list.tsv")


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=50, deadline=None)
@given(edits=st.lists(EDIT, min_size=1, max_size=3))
def test_rows_in_are_kept_or_listed(folder, name, edits):
    text = WHOLE[name]
    for place, length, new in edits:
        start = round(place * len(text))
        text = text[:start] + new + text[start + length :]
    path = folder / "kaldi" / "text" if name == "text" else folder / name
    path.write_text(text, newline="", encoding="utf-8")
    try:
        found = import_data(path.parent if name == "text" else path)
        kept, report = validate_and_repair(found, "train", FeaturesConfig(), str.lower)
    except LmuAsrError:
        return
    assert (
        report.total == count_rows(name, text) == len(list(kept.supervisions)) + len(report.dropped)
    )


@pytest.mark.parametrize("name", ["set", "subset", "Set"])
def test_a_column_that_looks_like_a_split_is_named(tmp_path, caplog, name):
    path = tmp_path / "list.csv"

    def said(*words: str) -> list[str]:
        rows = "".join(f"a{i}.wav,well,{word}\n" for i, word in enumerate(words))
        path.write_text(f"audio,text,{name}\n{rows}")
        caplog.clear()
        with caplog.at_level("INFO"):
            import_data(path)
        return [m for m in caplog.messages if "is not used" in m]

    (line,) = said("train", "val", "Test", "train")
    assert line.startswith(f"{path}: the column '{name.lower()}' (Test, train, val) is not used")
    assert not said("train", "other") and not said("1", "2") and not said("train", "")


def test_suffixes_in_any_case_and_packed_tables(tmp_path):
    for suffix, text in (("CSV", "audio,text\na.wav,x\n"), ("Tsv", "audio\ttext\na.wav\tx, y\n"),
                         ("JSONL", '{"audio": "a.wav", "text": "x"}\n')):  # fmt: skip
        folder = tmp_path / suffix
        folder.mkdir()
        (folder / f"train.{suffix}").write_text(text)
        for path in (folder, folder / f"train.{suffix}"):
            assert len(list(import_data(path).supervisions)) == 1
        assert split_paths(folder, ["train"]) == {"train": (folder / f"train.{suffix}",)}
    for name in ("list.csv.gz", "list.TSV.gz"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=rf"{name}: packed .*gunzip -k "):
            import_data(tmp_path / name)


def test_audio_named_by_blanks_alone(tmp_path):
    (tmp_path / "a.csv").write_text("audio,text\na.wav,x\n\t,\n")
    with pytest.raises(DataError, match=r"a.csv:3: 'source' \(the audio\) is empty"):
        import_data(tmp_path / "a.csv")


def test_lists_without_a_row(tmp_path):
    for name, text in (("a.csv", "audio,text\n"), ("a.tsv", "audio\ttext\n"), ("a.jsonl", "\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=rf"{name}: has no utterance"):
            import_data(tmp_path / name)
