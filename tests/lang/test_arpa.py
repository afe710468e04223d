"""ARPA files: round trips, and every way in which one can be broken."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from lmu_asr.errors import LangError
from lmu_asr.lang.ngram import NgramModel, read_arpa, train_ngram, write_arpa

TEXT = ["the cat sat", "the cat ran", "a cat sat on the mat", "on the mat"]
GOOD = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1\t<unk>
-99\t<s>\t-0.5
-0.5\t</s>
-0.4\ta\t-0.25
-0.6\tb

\\2-grams:
-0.1\t<s> a
-0.2\ta b
-0.3\tb </s>

\\end\\
"""


def same(one: NgramModel, other: NgramModel) -> bool:
    return one.symbols == other.symbols and all(
        np.array_equal(a.parent, b.parent)
        and np.array_equal(a.word, b.word)
        and np.allclose(a.logprob, b.logprob, rtol=1e-6)
        and np.allclose(a.backoff, b.backoff, rtol=1e-6)
        for a, b in zip(one.levels, other.levels, strict=True)
    )


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_round_trip(tmp_path: Path, name: str, order: int) -> None:
    model = train_ngram(TEXT, order)
    write_arpa(model, tmp_path / name)
    again = read_arpa(tmp_path / name)
    assert same(again, model)
    first = (tmp_path / name).read_bytes()
    write_arpa(again, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_values_as_written(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text("made by hand\n\n" + GOOD.replace("\n", "\r\n"))
    model = read_arpa(path)
    assert model.counts == [5, 3]
    assert model.score(["a", "b"]) == pytest.approx(-0.1 - 0.2 - 0.3)
    assert model.score(["a"]) == pytest.approx(-0.1 - 0.25 - 0.5)
    assert model.score(["b", "zzz"]) == pytest.approx(-0.5 - 0.6 - 1 - 0.5)


def test_missing_prefixes_change_no_probability(tmp_path: Path) -> None:
    extra = "\\3-grams:\n-0.05\tb a b\n-0.07\tb b b\n\n\\end"
    text = GOOD.replace("ngram 2=3\n", "ngram 2=3\nngram 3=2\n").replace("\\end", extra)
    (tmp_path / "lm.arpa").write_text(text)
    model = read_arpa(tmp_path / "lm.arpa")
    assert model.counts == [5, 5, 2]
    assert model.score(["b", "a", "b"], bos=False, eos=False) == pytest.approx(-0.6 - 0.4 - 0.05)
    assert model.score(["b", "b"], bos=False, eos=False) == pytest.approx(-0.6 - 0.6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", r":17: no '\\data\\' line"),
        ("ngram 1=5\n", "", ":2: the header counts no 1-grams"),
        ("ngram 1=5", "ngram 1=4", r":12: 5 1-grams from line 6 on, where the header says 4"),
        ("ngram 2=3", "ngram 2=4", r"3 2-grams .* says 4"),
        ("\\2-grams:", "\\3-grams:", r":12: .\\3-grams:. where .\\2-grams:."),
        ("-0.4\ta\t-0.25", "-0.4\ta\t-0.25\tb", ":9: 4 fields, want log10 probability, 1 words"),
        ("-0.2\ta b", "-0.2\ta b\t-0.1", ":14: 4 fields"),
        ("-0.2\ta b", "-0.2\ta", ":14: 2 fields"),
        ("-0.2\ta b", "x\ta b", ":14: log10 probability 'x' is no number"),
        ("-0.2\ta b", "-1_0\ta b", ":14: log10 probability '-1_0' is no number"),
        ("ngram 1=5", "ngram 1=" + "9" * 5000, ":2: the header counts no 1-grams"),
        (
            "ngram 2=3",
            "".join(f"ngram {order}=1\n" for order in range(2, 22)),
            ":22: n-grams of order 21: want 20 at most",
        ),
        ("ngram 2=3", "ngram 2=0", r"3 2-grams from line 13 on, where the header says 0"),
        ("-0.4\ta\t-0.25", "-0.4\ta\0\t-0.25", ":9: a NUL byte"),
        ("-0.2\ta b", "nan\ta b", ":14: log10 probability nan is not finite"),
        ("-0.2\ta b", "0.2\ta b", ":14: log10 probability 0.2 is above 0"),
        ("-0.4\ta\t-0.25", "-0.4\ta\tinf", ":9: back-off inf is not finite"),
        (GOOD, GOOD.replace("\n", "\r"), ":1: a carriage return within the line"),
        (GOOD, "", ":1: no '.data.' line: this is not an ARPA file"),
        ("-0.2\ta b", "-0.2\ta c", ":14: word 'c' is not among the 1-grams"),
        ("-0.3\tb </s>", "-0.2\ta b", ":15: 'a b' stands in line 14 already"),
        ("-0.6\tb", "-0.6\ta", ":10: 'a' stands among the 1-grams already"),
        ("\\end\\", "", "ends within the 2-grams"),
        ("-0.3\tb </s>\n\n\\end\\\n", "-0.3", "fields"),
    ],
)
def test_broken(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = tmp_path / "lm.arpa"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(LangError, match=message) as error:
        read_arpa(path)
    assert str(path) in str(error.value)


def test_a_word_in_another_unicode_form_is_named(tmp_path: Path) -> None:
    text = GOOD.replace("-0.6\tb", "-0.6\tb\u00e9").replace("a b", "a be\u0301")
    (tmp_path / "lm.arpa").write_text(text)
    with pytest.raises(LangError, match=r"another Unicode form, 'b\\xe9' for 'be\\u0301'"):
        read_arpa(tmp_path / "lm.arpa")


def test_lines_after_the_end_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "lm.arpa").write_text(f"{GOOD}\n\nmore\n{GOOD}")
    read_arpa(tmp_path / "lm.arpa")
    rest = 1 + sum(bool(line) for line in GOOD.split("\n"))
    assert f"lm.arpa: {rest} lines after '\\end\\' are not read" in caplog.text


def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa.gz"
    with pytest.raises(LangError, match="cannot be read"):
        read_arpa(path)
    path.write_bytes(gzip.compress(GOOD.encode())[:-30])
    with pytest.raises(LangError, match="cut short or damaged"):
        read_arpa(path)
    packed = bytearray(gzip.compress(GOOD.encode()))
    packed[-5] ^= 1  # in the sum, which stands after all the text
    path.write_bytes(packed)
    with pytest.raises(LangError, match="cut short or damaged: CRC check failed"):
        read_arpa(path)
    path.write_bytes(gzip.compress(GOOD.replace("a b", "\xe9 b").encode("latin-1")))
    with pytest.raises(LangError, match=":14: byte 0xe9 is not UTF-8"):
        read_arpa(path)


def test_perplexity_counts() -> None:
    model = train_ngram(TEXT, 3)
    text = ["the cat sat", "the dog sat"]
    found = model.perplexity(text)
    known = model.score(["the", "cat", "sat"])
    ids = [model.ids[w] for w in ("the", "sat", "</s>", "<s>")]
    the, sat, end, bos = ids
    histories = np.array([[-1, bos], [-1, -1], [-1, sat]])
    rest = model.conditional(histories, np.array([the, sat, end]))
    # an unknown word is not scored and hides what came before it
    unknown = np.array([[model.ids["<unk>"], sat]])
    assert model.conditional(unknown, np.array([end])) == pytest.approx(rest[2:])
    assert (found.sentences, found.words, found.oov) == (2, 6, 1)
    assert found.logprob == pytest.approx(known + rest.sum())
    assert found.ppl == pytest.approx(10 ** (-found.logprob / 7))
    assert found.ppl1 == pytest.approx(10 ** (-found.logprob / 5))
