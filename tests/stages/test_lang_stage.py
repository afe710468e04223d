"""Stages 2 and 3 on the user's own language-model text and ARPA file."""

from __future__ import annotations

import gzip
import unicodedata
from pathlib import Path

import pytest

from lmu_asr.errors import DataError, LangError
from lmu_asr.fsa.arrays import from_const_bytes
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.ngram import read_arpa, train_ngram, write_arpa
from lmu_asr.stages import load_stage
from lmu_asr.stages.common import run_stage
from lmu_asr.stages.lang import lm_sentences
from tests.stages.prepared import TEXTS, context_of, write


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("corpus", ["'it's red caf\u00e9 noise two'"]),  # of mini, whose texts have no tags
        ("plain", ["it's red caf\u00e9 two"]),
        ("upper", ["IT'S RED CAF\u00c9 TWO"]),
        ("as_is", ["\u2018It\u2019s red cafe\u0301, [noise] two\u2019"]),
    ],
)
def test_text_of_the_language_model_follows_the_rule(
    tmp_path: Path, rule: str, wanted: list[str]
) -> None:
    text = "\u2018It\u2019s red cafe\u0301, [noise] two\u2019\n\n"
    context = context_of(
        tmp_path, "char", corpus__text=rule, lm__text=write(tmp_path / "lm.txt", text)
    )
    assert list(lm_sentences(context)) == wanted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lm.txt", "un caf\xe9\n".encode("latin-1"), ":1: byte 0xe9 is not UTF-8"),
        ("lm.txt.gz", gzip.compress(b"hello there\n" * 500)[:30], "cut short or damaged"),
        ("lm.txt", b"one\r\ntwo\rthree\r\r", ":2: a carriage return within the line"),
        ("lm.txt", b"PK\3\4\0\0", ":1: a NUL byte"),
        ("lm.txt", b" \n...\n", "no sentence in this file"),
        ("none/lm.txt", None, "cannot be read: No such file"),
    ],
)
def test_unusable_text(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    context = context_of(tmp_path, "char", lm__text=str(path))
    with pytest.raises(DataError, match=f"{name}:?.*{message}"):
        run_stage(load_stage("lang"), context)
    assert not load_stage("lang").stamp_path(context).exists()


def arpa(path: Path, old: str = "", new: str = "") -> str:
    """A model of words that the training text has and lacks, with ``old`` written as ``new``."""
    write_arpa(train_ngram([*TEXTS, "zoo two", "read"], 2), path.with_suffix(".made"))
    text = path.with_suffix(".made").read_text()
    text = (
        text.upper().replace("NGRAM", "ngram").replace("-GRAMS", "-grams")
        if old == "case"
        else text
    )
    text = text.replace("\\DATA\\", "\\data\\").replace("\\END\\", "\\end\\")
    data = (text if old == "case" else text.replace(old, new) if old else text).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("lm.arpa", "", ""),
        ("lm.arpa.gz", "", ""),
        ("lm.arpa", "<unk>", "<UNK>"),
        ("lm.arpa", "case", ""),
    ],
)
def test_the_same_graph_however_the_model_is_written(
    tmp_path: Path, name: str, old: str, new: str
) -> None:
    context = context_of(tmp_path, lm__arpa=arpa(tmp_path / name, old, new), lang__oov="g2p")
    for stage in ("lang", "graph"):
        run_stage(load_stage(stage), context)
    lang = Lang.load(context.lang_dir)
    assert lang.words[1:-3] == ["read", "red", "roses", "two", "zoo"]
    assert set(read_arpa(context.graph_dir / "G.arpa").symbols) == {
        *("<unk>", "<s>", "</s>", "read", "red", "roses", "two", "zoo")
    }
    path = context.graph_dir / "HLG.fst"
    labels = set(from_const_bytes(path.read_bytes(), str(path)).arcs["olabel"].tolist())
    assert {lang.words[label] for label in labels if label > 0} == set(lang.words[1:-3])


@pytest.mark.parametrize(("text_form", "other_form"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("option", ["lm__text", "lm__arpa"])
def test_words_match_composed_or_not(
    tmp_path: Path, text_form: str, other_form: str, option: str
) -> None:
    other = unicodedata.normalize(other_form, "caf\u00e9")
    if option == "lm__text":
        value = write(tmp_path / "lm.txt", f"red {other}\n")
    else:
        write_arpa(train_ngram([f"red {other}"], 2), tmp_path / "lm.arpa")
        value = str(tmp_path / "lm.arpa")
    context = context_of(tmp_path, corpus__text="as_is", **{option: value})
    word = unicodedata.normalize(text_form, other)
    write(context.features_dir / "train_text", f"u0 red {word}\n")
    write(tmp_path / "lexicon.txt", f"red R EH D\n{other} K AE F EY\n{other}(2) K AE F IY\n")
    for stage in ("lang", "graph"):
        run_stage(load_stage(stage), context)
    lang = Lang.load(context.lang_dir)
    assert lang.words[1:-3] == [word, "red"]
    assert lang.pronunciations[word] == [("K", "AE", "F", "EY"), ("K", "AE", "F", "IY")]
    symbols = set(read_arpa(context.graph_dir / "G.arpa").symbols)
    assert symbols == {"<unk>", "<s>", "</s>", "red", word}


def test_a_model_of_other_words_is_refused(tmp_path: Path) -> None:
    write_arpa(train_ngram(["good day"], 2), tmp_path / "lm.arpa")
    context = context_of(tmp_path, "char", lm__arpa=str(tmp_path / "lm.arpa"))
    with pytest.raises(LangError, match="no word of the training text is in the model"):
        run_stage(load_stage("lang"), context)
