"""Files of pronunciations: CMUdict's format, Kaldi's with probabilities, and what is no lexicon."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest

from lmu_asr.errors import LangError
from lmu_asr.lang.pronunciations import read_pronunciations, remove_stress


@pytest.mark.parametrize(
    ("phone", "want"), [("AH0", "AH"), ("ER2", "ER"), ("K", "K"), ("a1", "a1"), ("B0", "B0")]
)
def test_remove_stress(phone: str, want: str) -> None:
    assert remove_stress(phone) == want


def test_read_pronunciations(tmp_path: Path) -> None:
    path = tmp_path / "lexicon"
    path.write_text(
        ";;; a comment\nread R EH1 D\nread(2)  R IY1 D # a note\n\nREAD R EH0 D\nread\tR EH2 D\n"
        "(paren P ER0\n"
    )
    assert read_pronunciations(path) == {
        "read": [("R", "EH", "D"), ("R", "IY", "D")],
        "READ": [("R", "EH", "D")],
        "(paren": [("P", "ER")],
    }


def test_bad_lexica_name_every_line(tmp_path: Path) -> None:
    path = tmp_path / "lexicon"
    path.write_text("fine F AY N\nempty\nmark M #1\nblank <blk>\n")
    with pytest.raises(LangError) as error:
        read_pronunciations(path)
    text = str(error.value)
    assert ":2: empty pronunciation of 'empty'" in text
    assert ":3: reserved symbol '#1' of 'mark'" in text
    assert ":4: reserved symbol '<blk>' of 'blank'" in text
    assert ":1:" not in text
    path.write_bytes(b"fine F\nbad \xff\n")
    with pytest.raises(LangError, match=":2: byte 0xff is not UTF-8"):
        read_pronunciations(path)
    path.write_text(";;; nothing\n")
    with pytest.raises(LangError, match="no pronunciation"):
        read_pronunciations(path)
    with pytest.raises(LangError, match="cannot be read"):
        read_pronunciations(tmp_path / "none")


READ = {"read": [("R", "EH", "D"), ("R", "IY", "D")], "a": [("AH",)]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lexicon.txt", "read R EH D\nread R IY D\na AH\n"),
        # known by the name, whatever the numbers look like
        ("lexiconp.txt", "read 0.4 R IY D\nread 1 R EH D\na 1 AH0\n"),
        (
            "lexiconp_silprob.txt",
            "read 1 .2 1.5 0.9 R EH D\nread 1e-2 0 0 2 R IY D\na 1 1 1 1 AH\n",
        ),
        # known by a decimal after every word
        ("lex", "read 0.4 R IY D\nread 0.400 R IY1 D\nread 1.0 R EH D\na 1.00000 AH\n"),
        # whole numbers beside decimals
        ("lex", "read 0.4 R IY D\nread 1 R EH D\na 1 AH\n"),
        ("lex", "read 1 0.2 1 1 R EH D\na 1.0 0.2 1 1 AH\nread 0.5 0.2 1 1 R IY D\n"),
        ("lex", "read 1.0 0.2 1 1 R EH D\na 1.0 0.2 1.30 1 AH\nread 0.5 0.2 1 1 R IY D\n"),
    ],
)
@pytest.mark.parametrize("packing", ["plain", "gzip", "mark and CRLF"])
def test_probabilities_are_no_phones(tmp_path: Path, name: str, text: str, packing: str) -> None:
    data = text.encode()
    if packing == "gzip":
        data = gzip.compress(data)
    elif packing != "plain":
        data = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").replace(" ", "\t").encode()
    (tmp_path / name).write_bytes(data)
    assert read_pronunciations(tmp_path / name) == READ


def test_what_was_done_with_probabilities_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "plain").write_text("a AH\n")
    read_pronunciations(tmp_path / "plain")
    assert not caplog.records
    (tmp_path / "lex").write_text("a 0.5 AH\n")
    read_pronunciations(tmp_path / "lex")
    assert "read as Kaldi's lexiconp.txt: the most probable pronunciation" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lexiconp.txt", "a 0.5 AH\nb B\n", ":2: .*'B' after 'b': want 1 number"),
        ("lexiconp.txt", "a 0.5 AH\nb 0.5\n", ":2: empty pronunciation of 'b'"),
        ("lexiconp.txt", "a 0 AH\n", ":1: '0' after 'a'.*probability in \\(0, 1\\]"),
        ("lexiconp.txt", "a 1.5 AH\n", ":1: '1.5' after 'a'"),
        ("lexiconp.txt", "a 1e999 AH\n", ":1: '1e999' after 'a'"),
        ("lexiconp.txt", "a nan AH\n", ":1: 'nan' after 'a'"),
        ("lexiconp_silprob.txt", "a 1.0 AH B C D\n", ":1: '1.0 AH B C' after 'a': want 4 number"),
        ("lex", "a 0.5 AH\nb B\n", ":1: '0.5' of 'a' is a number, not a phone; .* in every line"),
        ("lex", "a AH\n<eps> B\n", ":2: reserved symbol '<eps>' as a word"),
        ("lex", "a AH\n<s> SIL\n", ":2: reserved symbol '<s>' as a word"),
        ("lex", "</s>(2) SIL\n", ":1: reserved symbol '</s>' as a word"),
        ("lexiconp.txt", "#0 1.0 SIL\n", ":1: reserved symbol '#0' as a word"),
        ("lex", "<blk> SIL\n", ":1: reserved symbol '<blk>' as a word"),
        ("lex", "a AH\nb\u00a0\n", ":2: empty pronunciation of 'b'"),
        ("lex", "a AH\n\nb B\rc K\n", ":3: a carriage return within the line"),
        ("lex", "", "no pronunciation in this file"),
        ("lex", "a AH\n" + "b\n" * 30, ":11: empty.*\nand 20 lines more"),
    ],
)
def test_broken_probabilities(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(LangError, match=message):
        read_pronunciations(tmp_path / name)


def test_digits_can_be_phones(tmp_path: Path) -> None:
    (tmp_path / "lexicon.txt").write_text("in 1 n\nis 1 s\n")  # X-SAMPA
    assert read_pronunciations(tmp_path / "lexicon.txt") == {"in": [("1", "n")], "is": [("1", "s")]}


def test_comments_of_whole_lines(tmp_path: Path) -> None:
    (tmp_path / "lex").write_text("# a comment\n#\n #\tanother\n#hash HH\n")
    assert read_pronunciations(tmp_path / "lex") == {"#hash": [("HH",)]}


def test_one_word_in_two_unicode_forms(tmp_path: Path) -> None:
    (tmp_path / "lex").write_text("cafe\u0301 k a\u0303\ncaf\u00e9 k f\ncafe\u0301 k \u00e3\n")
    assert read_pronunciations(tmp_path / "lex") == {"caf\u00e9": [("k", "\u00e3"), ("k", "f")]}
