"""The user's own ARPA file: other names, the other case, no ends, no words, compressed."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest

from lmu_asr.errors import LangError
from lmu_asr.lang.grammar import grammar_fst
from lmu_asr.lang.ngram import UNK, read_arpa
from lmu_asr.lang.user_arpa import is_word, read_user_arpa

ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-1\t<unk>
-99\t<s>\t-0.5
-0.5\t</s>
-0.4\tgood\t-0.25
-0.6\tday
-0.7\t[noise]

\\2-grams:
-0.1\t<s> good
-0.3\tgood </s>

\\end\\
"""
TEXT = {"good", "day"}


def write(path: Path, text: str = ARPA) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_saved_as_it_is_written(tmp_path: Path, name: str) -> None:
    found = read_user_arpa(write(tmp_path / name), TEXT)
    assert found.as_written
    found.save(tmp_path / "G.arpa")
    assert (tmp_path / "G.arpa").read_text() == ARPA


def test_gzip_under_another_name_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + ARPA.replace("\n", "\r\n").encode()))
    found = read_user_arpa(path, TEXT)
    found.save(tmp_path / "G.arpa")
    assert read_arpa(tmp_path / "G.arpa").symbols == found.model.symbols


@pytest.mark.parametrize("other", ["<UNK>", "<oov>", "[unk]"])
def test_other_names_of_the_unknown_word(tmp_path: Path, other: str) -> None:
    text = ARPA.replace("<unk>", other).replace("<s> good", f"<s> {other}")
    model = read_user_arpa(write(tmp_path / "lm.arpa", text), TEXT).model
    assert other not in model.ids
    assert model.score(["never"]) == pytest.approx(-0.1 - 0.5)  # <s> <unk>, then </s>
    assert UNK in model.ids


def test_symbols_that_are_no_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = ARPA.replace("ngram 1=6", "ngram 1=10").replace(
        "-0.7\t[noise]", "-1\t[noise]\n-1\t<eps>\n-1\t#1\n-1\tnew\n-1\t10\u00a0000"
    )
    found = read_user_arpa(write(tmp_path / "lm.arpa", text), TEXT)
    assert found.new_words(TEXT) == ["new"]
    assert "4 symbols are not words and are left out: '[noise]', '<eps>', '#1'" in caplog.text
    assert found.new_words(TEXT | {"[noise]"}) == ["new"]  # a word of the training text stays one


def test_is_word() -> None:
    assert all(map(is_word, ["a", "don't", "#tag", "c#", "<", "x>", "!"]))
    assert not any(map(is_word, ["<s>", "{lg}", "(noise)", "#12", "!SIL", "a b", ""]))


@pytest.mark.parametrize(("text_case", "model_case"), [("lower", "upper"), ("upper", "lower")])
def test_the_other_case(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text_case: str, model_case: str
) -> None:
    def change(text: str, case: str) -> str:
        for word in ("good", "day"):
            text = text.replace(word, getattr(word, case)())
        return text

    path = write(tmp_path / "lm.arpa", change(ARPA, model_case))
    found = read_user_arpa(path, {getattr(word, text_case)() for word in TEXT})
    found.save(tmp_path / "G.arpa")
    assert read_arpa(tmp_path / "G.arpa").symbols[3:] == [
        *(getattr(word, text_case)() for word in ("good", "day")),
        "[noise]",
    ]
    assert f"some in {text_case} case" in caplog.text


def test_everything_in_upper_case(tmp_path: Path) -> None:
    text = ARPA.upper().replace("\\DATA", "\\data").replace("NGRAM", "ngram")
    text = text.replace("-GRAMS", "-grams").replace("\\END", "\\end")
    model = read_user_arpa(write(tmp_path / "lm.arpa", text), TEXT).model
    assert model.symbols == ["<unk>", "<s>", "</s>", "good", "day", "[NOISE]"]


@pytest.mark.parametrize(
    ("words", "old", "new", "message"),
    [
        (TEXT, "-0.5\t</s>", "-0.5\tx", "no </s> among its 1-grams"),
        ({"other"}, "", "", "no word of the training text is in the model: the text has 'other'"),
        (
            {"DAY"},
            "[noise]",
            "Day",
            r"'day' \(line 10\) and 'Day' \(line 11\) become one word, 'DAY', in upper case",
        ),
        (
            {"caf\u00e9"},
            "day\n-0.7\t[noise]",
            "caf\u00e9\n-0.7\tcafe\u0301",
            r"'caf\\xe9' \(line 10\) and 'cafe\\u0301' \(line 11\) become one word, 'café'",
        ),
    ],
)
def test_refused(tmp_path: Path, words: set[str], old: str, new: str, message: str) -> None:
    text = ARPA.replace(old, new).replace("good </s>", "good day" if "</s>" in old else "good </s>")
    with pytest.raises(LangError, match=f"lm.arpa:(11:)? .*{message}"):
        read_user_arpa(write(tmp_path / "lm.arpa", text), words)


NEITHER = "7 \u0996\u09bf"  # a digit and a word of a script without case


@pytest.mark.parametrize(
    ("text", "model", "wanted"),
    [
        # a word without case says nothing of the case
        (f"good day {NEITHER}", f"GOOD DAY {NEITHER}", f"good day {NEITHER}"),
        (f"GOOD {NEITHER}", f"good day {NEITHER}", f"GOOD DAY {NEITHER}"),
        ("good day", "good DAY", "good DAY"),  # one is there as written
        (NEITHER, f"GOOD day {NEITHER}", f"GOOD day {NEITHER}"),  # nothing to go by
        (f"other {NEITHER}", f"GOOD {NEITHER}", f"GOOD {NEITHER}"),
        # composed or not, in the same case or another
        ("caf\u00e9", "cafe\u0301 no\u0308", "caf\u00e9 n\u00f6"),
        ("cafe\u0301 x", "caf\u00e9 y\u0308", "cafe\u0301 y\u0308"),  # as_is leaves the text so
        ("caf\u00e9", "CAFE\u0301 NO\u0308", "caf\u00e9 n\u00f6"),
    ],
)
def test_words_are_fitted_to_the_text(tmp_path: Path, text: str, model: str, wanted: str) -> None:
    words = ["<unk>", "<s>", "</s>", *model.split()]
    arpa = f"\\data\\\nngram 1={len(words)}\nngram 2=1\n\n\\1-grams:\n"
    arpa += "".join(f"-1\t{word}\n" for word in words)
    arpa += f"\n\\2-grams:\n-0.1\t<s> {words[3]}\n\n\\end\\\n"
    found = read_user_arpa(write(tmp_path / "lm.arpa", arpa), set(text.split()))
    found.save(tmp_path / "G.arpa")
    assert read_arpa(tmp_path / "G.arpa").symbols == ["<unk>", "<s>", "</s>", *wanted.split()]
    assert found.as_written == (wanted == model)
    assert found.new_words(set(wanted.split())) == []


def test_few_words_shared_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "lm.arpa")
    read_user_arpa(path, {"good", "day", "rare"})
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    read_user_arpa(path, {"good", "x", "y"})
    assert "1 of the 3 words of the training text are in the model (33 %); not: 'x', 'y'" in (
        caplog.text
    )


def test_without_sentence_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = ARPA.replace("-99\t<s>\t-0.5\n", "").replace("ngram 1=6", "ngram 1=5")
    text = text.replace("-0.1\t<s> good\n", "").replace("ngram 2=2", "ngram 2=1")
    read_user_arpa(write(tmp_path / "lm.arpa", text), TEXT)
    assert "the model has no <s>" in caplog.text


def test_grammar_without_sentence_end_is_named(tmp_path: Path) -> None:
    text = "\\data\\\nngram 1=1\n\n\\1-grams:\n-0.5\tgood\n\n\\end\\\n"
    with pytest.raises(LangError, match="the language model has no </s>"):
        grammar_fst(read_arpa(write(tmp_path / "lm.arpa", text)), {"good": 1, "#0": 2})
