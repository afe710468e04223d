"""Lists of corpora that are damaged end in one line that names the file and the place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora import asterisk, commonvoice, gigaspeech, switchboard
from lmu_asr.errors import DataError

HEADER = "client_id\tpath\tsentence\n"


def giga(item: object) -> bytes:
    return json.dumps({"audios": [item]}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"client_id\tpath\ttext\na\tb\tc\n", "train.tsv:2: no column 'sentence'"),
        (f"{HEADER}a\tb.mp3\n".encode(), "train.tsv:2: 2 fields, want 3"),
        (f"{HEADER}a\t\tc\n".encode(), "train.tsv:2: 'path'"),
        (f"{HEADER}a\tb\tc\0\n".encode(), "train.tsv:2: a NUL byte"),
        (HEADER.encode() + "a\tb\tcafé\n".encode("latin-1"), "train.tsv:2: byte 0xe9"),
    ],
)
def test_common_voice(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(commonvoice._read(tmp_path / "train.tsv"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (giga([]), "item 1 of 'audios': not as"),
        (giga({"subsets": ["{XS}"], "segments": [{}]}), "item 1 of 'audios': not as"),
        (giga(7), "item 1 of 'audios': not as"),
        (giga({"subsets": []})[:-5], "cut short or not JSON"),
        (b'{"audios": [' + b"[" * 100_000, "nested too deeply"),
        (b'{"audios": [\xff', "not UTF-8"),
        (b"{}", "no list 'audios'"),
    ],
)
def test_gigaspeech(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "GigaSpeech.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(gigaspeech._read(tmp_path / "GigaSpeech.json", "XS"))


def test_gigaspeech_time_that_is_no_number(tmp_path: Path) -> None:
    segment = {"text_tn": "A", "subsets": ["{XS}"], "begin_time": "x", "end_time": 1, "sid": "s"}
    item = {"subsets": ["{XS}"], "segments": [segment], "path": "a.opus", "aid": "a"}
    (tmp_path / "G.json").write_bytes(giga(item))
    with pytest.raises(DataError, match="item 1 of 'audios': start and end are 'x' and 1, want"):
        list(gigaspeech._read(tmp_path / "G.json", "XS"))


def test_switchboard(tmp_path: Path) -> None:
    path = tmp_path / "trans.text"
    path.write_text("sw2001A-ms98-a-0001 0.0 x HI\n")
    with pytest.raises(DataError, match=r"trans\.text:1: start and end are '0.0' and 'x', want"):
        list(switchboard._conversation(path, {}))
    path.write_text("en_4156 C en_4156_A 1.0 2.0 <O> HI\n")
    with pytest.raises(DataError, match=r"trans\.text:1: channel is 'C', want A or B"):
        list(switchboard._evaluation(path, {}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"; remark\nno colon\n"), ":2: want"),
        (gzip.compress(b"a: b\n")[:-6], "cut short"),
    ],
)
def test_asterisk(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "core-sounds-en.txt.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        asterisk.CORPUS.manifests(CorpusConfig(name="asterisk"), tmp_path)
