"""Lines of Kaldi directories that are no path and no place, and what is said of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmu_asr.data.importing.kaldi import read_kaldi
from lmu_asr.errors import DataError
from tests.data.speech import write_audio


def directory(folder: Path, entry: str = "a.wav", segment: str = "") -> Path:
    write_audio(folder / "a.wav", 2.0)
    (folder / "wav.scp").write_text(f"a {entry}\n")
    (folder / "text").write_text("u one\n" if segment else "a one\n")
    if segment:
        (folder / "segments").write_text(f"u a {segment}\n")
    return folder


def test_a_segment_to_the_end(tmp_path: Path) -> None:
    for end in ("-1", "-1.0"):
        (found,) = read_kaldi(directory(tmp_path, segment=f"0.5 {end}")).supervisions
        assert (found.start, found.duration) == (0.5, 1.5)


@pytest.mark.parametrize("end", ["nan", "inf", "1e300", "1_0", "one", "0x1", "\u0661"])
def test_a_segment_without_a_number(tmp_path: Path, end: str) -> None:
    with pytest.raises(
        DataError, match=re.escape(f"segments:1: start and end are '0' and '{end}'")
    ):
        read_kaldi(directory(tmp_path, segment=f"0 {end}"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a.wav[0:100]", "takes a range of a file"),
        ('"a.wav"', "has quotes"),
        ("'a.wav'", "has quotes"),
        ("$HOME/a.wav", "has what a shell replaces"),
        ("${DATA}/a.wav", "has what a shell replaces"),
        ("~/a.wav", "has what a shell replaces"),
        ("| cat a.wav", "has its pipe at the wrong end"),
        ("sph2pipe -f wav a.sph", "looks like a command without its '|'"),
        ("-", "is standard input"),
        ("https://host/a.wav", "is an address of a kind that is not fetched"),
        ("", "has no file or command"),
    ],
)
def test_forms_that_are_no_path(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape("wav.scp:1: 'a' ") + message):
        read_kaldi(directory(tmp_path, entry))


@pytest.mark.parametrize("name", ["b[0:1]", "'b'.wav", "~b.wav", "cat b.wav", "b$HOME.wav"])
def test_files_of_such_names(tmp_path: Path, name: str) -> None:
    directory(tmp_path, name)
    (tmp_path / "a.wav").rename(tmp_path / name)
    assert read_kaldi(tmp_path).problems == {}
