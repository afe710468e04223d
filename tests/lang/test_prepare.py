"""Making and loading lang directories: encoding, determinism, refusals."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path

import hypothesis
import kaldifst
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import LangConfig
from lmu_asr.errors import LangError
from lmu_asr.lang.lang import Lang, ctc_min_frames
from lmu_asr.lang.prepare import prepare_lang
from lmu_asr.lang.validate import validate_lang

TEXTS = ["the cat sat on the mat", "two cats read to me too", "a cat's hat", "hello world"]
UNITS = {
    "char": LangConfig(unit="char"),
    "unigram": LangConfig(unit="bpe", bpe_vocab_size=30),
    "bpe": LangConfig(unit="bpe", bpe_type="bpe", bpe_vocab_size=40),
    "phone": LangConfig(unit="phone"),
    "silence": LangConfig(unit="phone", optional_silence=True),
}


@pytest.fixture(scope="module")
def langs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lang]:
    root = tmp_path_factory.mktemp("langs")
    extra = ["catcher", "ñandu"]
    return {name: prepare_lang(conf, TEXTS, extra, root / name) for name, conf in UNITS.items()}


@pytest.mark.parametrize("name", UNITS)
def test_tables(langs: dict[str, Lang], name: str) -> None:
    lang = langs[name]
    rows = (lang.dir / "tokens.txt").read_text().splitlines()
    assert rows == [f"{t} {i}" for i, t in enumerate([*lang.tokens, *lang.disambig_tokens])]
    assert lang.tokens[0] == "<blk>" and lang.vocab_size == len(lang.tokens)
    assert lang.disambig_tokens[0] == "#0"
    assert lang.disambig_ids == [lang.token_ids[t] for t in lang.disambig_tokens]
    assert lang.words[0] == "<eps>" and lang.words[-3:] == ["#0", "<s>", "</s>"]
    assert lang.words[1:-3] == sorted(lang.words[1:-3])
    assert {w for t in TEXTS for w in t.split()} <= set(lang.words)
    assert "catcher" in lang.words
    assert lang.word_disambig_id == len(lang.words) - 3


@pytest.mark.parametrize("name", ["char", "unigram", "bpe"])
def test_decoding_undoes_encoding(langs: dict[str, Lang], name: str) -> None:
    lang = langs[name]
    words = st.text("acdehlmnorstw'", min_size=1, max_size=6)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(words, max_size=6))
    def check(text: list[str]) -> None:
        ids = lang.encode("  ".join(text) + " ")
        assert lang.decode(ids) == " ".join(text)
        assert all(0 < i < lang.vocab_size for i in ids)
        # a word is spelled alike wherever it stands: what makes graph and targets agree
        assert ids == [i for word in text for i in lang.encode(word)]

    check()


@pytest.mark.parametrize("name", UNITS)
def test_lexicon_holds_the_training_targets(langs: dict[str, Lang], name: str) -> None:
    lang = langs[name]
    for word, prons in lang.pronunciations.items():
        assert lang.token_text(lang.encode(word)) == " ".join(prons[0])


def test_characters_mark_the_start_of_words(langs: dict[str, Lang]) -> None:
    lang = langs["char"]
    assert lang.token_text(lang.encode("the cat")) == "▁ t h e ▁ c a t"
    assert lang.tokens[1] == "▁" and lang.tokens[2:] == sorted(lang.tokens[2:])


def test_phones(langs: dict[str, Lang]) -> None:
    lang = langs["phone"]
    assert lang.phones_of_text("the cat sat") == "DH AH K AE T S AE T"
    assert lang.decode(lang.encode("two too")) == "T UW T UW"
    assert lang.pronunciations["read"] == [("R", "EH", "D"), ("R", "IY", "D")]
    assert lang.vocab_size == 40 and "SIL" not in lang.tokens
    assert langs["silence"].vocab_size == 41
    assert len(langs["silence"].disambig_tokens) == len(lang.disambig_tokens) + 1


@pytest.mark.parametrize("name", UNITS)
def test_equal_input_gives_equal_bytes(langs: dict[str, Lang], name: str, tmp_path: Path) -> None:
    (tmp_path / ".tokens.txt.0.tmp.txt").write_text("left by a run that was killed")
    (tmp_path / "bpe.model").write_bytes(b"of an earlier run")
    again = prepare_lang(UNITS[name], TEXTS[::-1], ["ñandu", "catcher"] * 2, tmp_path)
    files = {p.name: p.read_bytes() for p in langs[name].dir.iterdir()}
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == files
    assert again.fingerprint == langs[name].fingerprint


@settings(max_examples=20, deadline=None)
@given(st.data())
@pytest.mark.parametrize("config", [UNITS["char"], UNITS["unigram"], UNITS["bpe"]])
def test_any_text_makes_a_sound_lang(
    tmp_path_factory: pytest.TempPathFactory, config: LangConfig, data: st.DataObject
) -> None:
    symbols = st.characters(codec="utf-8", exclude_characters="▁#<", exclude_categories=["Cc"])
    words = st.text(st.sampled_from("ab'é漢\u0301#-") | symbols, min_size=1, max_size=5)
    text = " ".join(data.draw(st.lists(words, min_size=1, max_size=8)))
    hypothesis.assume(text.split() and not re.search(r"#\d", text))
    lang = prepare_lang(config, [text], ["other", "ab"], tmp_path_factory.mktemp("any"))
    validate_lang(lang.dir, [text])
    assert lang.decode(lang.encode(text)) == " ".join(text.split())


def test_fingerprints_differ(langs: dict[str, Lang]) -> None:
    assert len({lang.fingerprint for lang in langs.values()}) == len(langs)


@pytest.mark.parametrize("name", UNITS)
def test_openfst_finds_the_words(langs: dict[str, Lang], name: str) -> None:
    lang = langs[name]
    lexicon = kaldifst.StdVectorFst.read(str(lang.dir / "L.fst"))
    text = "hello cats" if name != "phone" else "hello the"
    tokens = kaldifst.make_linear_acceptor(lang.encode(text))
    kaldifst.arcsort(lexicon, "ilabel")
    best = kaldifst.shortest_path(kaldifst.compose(tokens, lexicon))
    outputs, state = [], best.start
    while best.num_arcs(state):
        arc = next(iter(kaldifst.ArcIterator(best, state)))
        outputs += [lang.words[arc.olabel]] * (arc.olabel > 0)
        state = arc.nextstate
    assert " ".join(outputs) == text


def test_bpe_falls_back_to_the_nearest_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind, size in itertools.product(("unigram", "bpe"), (5000, 8)):
        caplog.clear()
        config = LangConfig(unit="bpe", bpe_type=kind, bpe_vocab_size=size)
        lang = prepare_lang(config, TEXTS, [], tmp_path / f"{kind}{size}")
        assert f"lang.bpe_vocab_size={size} does not fit" in caplog.text
        assert f"using {lang.vocab_size}," in caplog.text
        assert 15 < lang.vocab_size < 200


def test_extra_words_outside_the_tokens_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        lang = prepare_lang(LangConfig(unit="char"), ["a b"], ["ab", "xyz", "#0"], tmp_path)
    assert "left out 2 of 3 extra words" in caplog.text
    assert lang.words == ["<eps>", "a", "ab", "b", "#0", "<s>", "</s>"]


@pytest.mark.parametrize("name", UNITS)
def test_symbols_without_tokens_are_named(langs: dict[str, Lang], name: str) -> None:
    lang = langs[name]
    with pytest.raises(LangError, match=r"catß|'ß'"):
        lang.encode("the catß")
    with pytest.raises(LangError, match="▁"):
        lang.encode("the ▁cat")
    for index in (0, lang.vocab_size, -1):
        with pytest.raises(LangError, match=f"token id {index} "):
            lang.decode([1, index])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "text is empty"),
        (["  ", ""], "text is empty"),
        (["a <s> b"], "reserved symbols in '<s>'"),
        (["a ▁b"], "reserved symbols in '▁b'"),
        (["<eps> #0"], "'#0', '<eps>'"),
    ],
)
@pytest.mark.parametrize("unit", ["char", "bpe", "phone"])
def test_texts_that_cannot_be(tmp_path: Path, unit: str, texts: list[str], message: str) -> None:
    with pytest.raises(LangError, match=message):
        prepare_lang(LangConfig(unit=unit), texts, [], tmp_path / "lang")
    assert not (tmp_path / "lang").exists()


def test_own_lexicon_and_unknown_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lexicon = tmp_path / "lexicon"
    lexicon.write_text("CAT K AE1 T\nDOG D AO1 G\nthe dh ah\n")
    texts = ["the cat", "the tac"]

    def make(oov: str) -> Lang:
        config = LangConfig(unit="phone", lexicon=str(lexicon), oov=oov)
        return prepare_lang(config, texts, ["dog", "zebra"], tmp_path / oov)

    with pytest.raises(LangError, match=r"1 words of the training text .*lexicon: 'tac'.*g2p"):
        make("refuse")
    assert not (tmp_path / "refuse" / "lang.json").exists()
    with caplog.at_level(logging.INFO):
        dropped = make("drop")
    assert "2 words without pronunciation left out: 'tac', 'zebra'" in caplog.text
    assert dropped.words[1:-3] == ["cat", "dog", "the"]
    assert dropped.pronunciations["the"] == [("dh", "ah")]
    with pytest.raises(LangError, match="word 'tac' has no pronunciation"):
        dropped.encode("the tac")
    guessed = make("g2p")
    assert guessed.pronunciations["tac"] == [("T", "AE", "K")]
    assert "zebra" not in guessed.words  # its guess has phones that this lexicon lacks
    lexicon.write_text("the a b\n")
    with pytest.raises(LangError, match=r"2 words .*'cat', 'tac'.*drop to leave them out"):
        make("g2p")
    with pytest.raises(LangError, match="the lexicon is empty"):
        prepare_lang(
            LangConfig(unit="phone", lexicon=str(lexicon), oov="drop"), ["x"], [], tmp_path / "x"
        )


def test_g2p_beside_cmudict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        lang = prepare_lang(LangConfig(unit="phone"), ["the blorf"], [], tmp_path)
    assert lang.pronunciations["blorf"] == [("B", "L", "AO", "R", "F")]
    assert "1 words outside CMUdict pronounced by g2p: 'blorf'" in caplog.text


def test_half_written_or_changed_directories(tmp_path: Path) -> None:
    prepare_lang(LangConfig(unit="char"), ["a b"], [], tmp_path)
    info = (tmp_path / "lang.json").read_text()
    words = (tmp_path / "words.txt").read_text()
    (tmp_path / "words.txt").write_text(words.replace("a 1", "c 1"))
    with pytest.raises(LangError, match="a file was changed"):
        Lang.load(tmp_path)
    (tmp_path / "words.txt").unlink()
    with pytest.raises(LangError, match=r"words\.txt: missing"):
        Lang.load(tmp_path)
    (tmp_path / "words.txt").write_text(words)
    assert Lang.load(tmp_path).words[1] == "a"
    for broken in ("{", "[]", '{"unit": "syllable"}', '{"unit": "char"}'):
        (tmp_path / "lang.json").write_text(broken)
        with pytest.raises(LangError, match=r"lang\.json: "):
            Lang.load(tmp_path)
    (tmp_path / "lang.json").unlink()
    with pytest.raises(LangError, match="no whole lang directory"):
        Lang.load(tmp_path)
    (tmp_path / "lang.json").write_text(info)
    assert Lang.load(tmp_path).unit == "char"


@given(st.lists(st.integers(1, 3), max_size=6))
def test_ctc_min_frames(ids: list[int]) -> None:
    # the shortest path with a blank between equal neighbours, written out
    path = [x for i, a in enumerate(ids) for x in ([0] if i and ids[i - 1] == a else []) + [a]]
    assert [k for k, _ in itertools.groupby(path) if k] == ids
    assert ctc_min_frames(ids) == len(path)
