"""The one reader of text lines: what ends a line, what is skipped, what is refused and where."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lmu_asr.errors import DataError, LangError
from lmu_asr.text_lines import text_lines


@pytest.mark.parametrize("packed", [False, True])
def test_lines_end_at_line_feeds_only(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "text"  # the content says whether it is compressed, not the name
    text = "\ufeffa\u2028b\x85c\x0cd\r\n\ne\rf\ng\ufeff".encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    wanted = [(1, "a\u2028b\x85c\x0cd"), (2, ""), (3, "e\rf"), (4, "g\ufeff")]
    assert list(text_lines(path)) == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\ncafé\n".encode("latin-1"), r":2: byte 0xe9 is not UTF-8"),
        ("one\n".encode("utf-16"), r":1: UTF-16, not UTF-8"),
        (b"one\nt\0wo\n", r":2: a NUL byte"),
        (b"one\n" + b"x" * 101 + b"\n", r":2: a line of more than 100 bytes"),
        (gzip.compress(b"one\n" * 500)[:30], r"cut short or damaged"),
        (gzip.compress(b"one\n" * 500)[:-8] + b"\0" * 8, r":501: .*cut short or damaged"),
        (gzip.compress(bytes(range(256)))[:10] + b"\xff" * 90, r":1: .*cut short or damaged"),
    ],
)
def test_refused_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(text_lines(path, longest=100))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: cannot be read: No such file"):
        list(text_lines(tmp_path / "none"))
    with pytest.raises(LangError, match="cannot be read: Is a directory"):
        list(text_lines(tmp_path, LangError))
    (tmp_path / "empty").touch()
    assert list(text_lines(tmp_path / "empty")) == []
