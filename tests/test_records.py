"""JSON documents and the dataclasses made from them: right in every type, or named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lmu_asr.errors import DocumentError, LmuAsrError
from lmu_asr.files import parse_json, read_json
from lmu_asr.records import record


@dataclass(frozen=True)
class Inner:
    x: float
    y: int | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    on: bool
    inner: Inner
    more: tuple[Inner, ...] = ()
    table: dict[str, list[int]] = field(default_factory=dict)
    free: Any = None


def test_record() -> None:
    values = {
        "name": "n", "on": True, "inner": {"x": 1}, "more": [{"x": 2.5, "y": 3}],
        "table": {"a": [1, 2]}, "free": [None],
    }  # fmt: skip
    found = record(Outer, values, "here")
    assert found == Outer("n", True, Inner(1.0), (Inner(2.5, 3),), {"a": [1, 2]}, [None])
    assert type(found.inner.x) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "here: name: want str, got int 3"),
        ({"on": 1}, "here: on: want bool, got int 1"),
        ({"inner": {"x": True}}, "here: inner: x: want float, got bool True"),
        ({"inner": {"x": 1, "y": 2.5}}, "here: inner: y: want int"),
        ({"inner": {}}, "here: inner: lacks 'x'"),
        ({"inner": []}, "here: inner: want an object, got list"),
        ({"more": {"x": 1}}, "here: more: want"),
        ({"table": {"a": ["1"]}}, "here: table: want int"),
        ({"inner": {"x": 10**400}}, "a number of 1329 bits"),
        ({"other": 1}, "here: unknown key 'other'"),
    ],
)
def test_wrong_types_are_named(changes: dict[str, Any], message: str) -> None:
    values = {"name": "n", "on": True, "inner": {"x": 1}, **changes}
    with pytest.raises(DocumentError, match=message):
        record(Outer, values, "here")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": ', "not valid JSON"),
        (b"\xff", "not valid JSON: 'utf-8'"),
        (b"[" * 100_000, "more than 60 levels"),
        (b"[" * 70 + b"]" * 70, "more than 60 levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "more than 60 levels"),
        (b"9" * 5000, "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_documents_that_are_none(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(DocumentError, match=rf"x\.json: .*{message}|{message}"):
        read_json(tmp_path / "x.json")


def test_wide_documents_are_no_deep_ones() -> None:
    assert parse_json("[" + "[1]," * 500 + "{}]", "x")[-1] == {}


def test_messages_stay_short_and_cannot_write_to_the_terminal() -> None:
    shown = str(LmuAsrError("f:1: got '" + "\x1b[2J\0\r" + "x" * 100_000 + "' end"))
    assert shown.isprintable() and len(shown) < 1200
    assert r"\x1b[2J\x00\r" in shown and shown.endswith("' end")
    lines = str(LmuAsrError("\n".join("line" for _ in range(5000)))).split("\n")
    assert len(lines) == 201 and lines[-1] == "... and 4800 more lines"
    plain = "f.csv:3: 'हिन्दी é\tb'\nsecond"
    assert str(LmuAsrError(plain)) == plain
