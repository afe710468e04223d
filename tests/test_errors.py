"""How messages show what a terminal cannot, or must not, print."""

from __future__ import annotations

import io
import logging

import pytest

from lmu_asr.errors import DataError, show_names_on
from lmu_asr.progress import setup_logging


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("caf\udce9.wav", "caf%E9.wav"),
        ("\udc80\udcff", "%80%FF"),
        ("\ud800", "%ED%A0%80"),
        ("café\x1b[1m", "café\\x1b[1m"),
    ],
)
def test_bytes_of_a_name_that_is_not_utf8(
    name: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(DataError(f"{name}: no such file")) == f"{shown}: no such file"
    setup_logging()
    print(name.replace("\x1b", "\\x1b"))  # print and log pass other characters on
    assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_message_on_a_stream_shows_names_alike(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show_names_on(stream)
    handler = logging.StreamHandler(stream)
    handler.emit(logging.makeLogRecord({"msg": "%s: ä", "args": ("\udcff.wav",)}))
    stream.flush()
    wanted = "%FF.wav: ä\n".encode(encoding, "backslashreplace")
    assert stream.buffer.getvalue() == wanted


def test_other_streams_are_left_as_they_are() -> None:
    show_names_on(None)
    stream = io.StringIO()
    show_names_on(stream)
    stream.write("\udcff.wav")
    assert stream.getvalue() == "\udcff.wav"
