"""G against the model's own scores: every sentence, every path."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import kaldifst
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import LangConfig
from lmu_asr.errors import LangError
from lmu_asr.lang.grammar import arpa_to_fst, grammar_fst, label_ids
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.ngram import NgramModel, prune, read_arpa, train_ngram, write_arpa
from lmu_asr.lang.openfst import FstColumns
from lmu_asr.lang.prepare import prepare_lang

IDS = {"a": 1, "b": 2, "c": 3, "#0": 4}
SENTENCES = st.lists(
    st.lists(st.sampled_from("abc"), max_size=5).map(" ".join), min_size=1, max_size=10
)


def cost(fst: FstColumns, words: list[int], backoff: int) -> float:
    """Cost of a sentence where each step backs off only when no arc carries the word."""
    arcs = {}
    for s, d, i, c in zip(fst.src, fst.dst, fst.ilabel, fst.cost, strict=True):
        assert (int(s), int(i)) not in arcs, "G must be deterministic"
        arcs[int(s), int(i)] = (int(d), float(c))
    state, total = fst.start, 0.0
    for word in words:
        while (state, word) not in arcs:
            state, c = arcs[state, backoff]
            total += c
        state, c = arcs[state, word]
        total += c
    while not np.isfinite(fst.final[state]):
        state, c = arcs[state, backoff]
        total += c
    return total + float(fst.final[state])


@settings(max_examples=60, deadline=None)
@given(SENTENCES, st.integers(1, 4), st.lists(st.sampled_from("abc"), max_size=6), st.booleans())
def test_costs_are_the_models(text: list[str], order: int, words: list[str], pruned: bool) -> None:
    model = train_ngram(text, order, vocabulary="abc")
    if pruned:
        model = prune(model, 0.05)
    fst = grammar_fst(model, IDS)
    want = -model.score(words) * math.log(10)
    assert cost(fst, [IDS[w] for w in words], 4) == pytest.approx(want, rel=1e-9)


def test_shape() -> None:
    # histories: empty, <s>, a, b; "b" is continued by </s> alone
    fst = grammar_fst(train_ngram(["a b"] * 4, 2), IDS)
    assert len(fst.final) == 4 and fst.start == 1
    assert (fst.olabel == np.where(fst.ilabel == 4, 0, fst.ilabel)).all()
    assert ((fst.ilabel == 4).sum(), np.isfinite(fst.final).sum()) == (3, 2)
    assert {1, 2} == set(fst.ilabel[fst.src == 0].tolist())
    keys = list(zip(fst.src, fst.ilabel, strict=True))
    assert keys == sorted(keys)


def test_backoff_of_a_history_that_nothing_continues(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(
        "\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-1\t</s>\n-99\t<s>\t-0.5\n-0.3\ta\t-0.2\n"
        "-0.4\tb\t-0.7\n\n\\2-grams:\n-0.1\t<s> a\n\n\\end\\\n"
    )
    model = read_arpa(path)
    fst = grammar_fst(model, IDS)
    for words in (["a"], ["b"], ["a", "b"], ["b", "a", "a"]):
        want = -model.score(words) * math.log(10)
        assert cost(fst, [IDS[w] for w in words], 4) == pytest.approx(want)
    assert model.score(["b"]) == pytest.approx(-0.5 - 0.4 - 0.7 - 1)


def test_words_outside_the_lexicon(caplog: pytest.LogCaptureFixture) -> None:
    text = ["a b x", "x a", "b x a", "a c"]
    model = train_ngram(text, 3)
    with caplog.at_level(logging.INFO):
        fst = grammar_fst(model, IDS)
    assert "1 of 7 words of the language model are not in words.txt: 'x'" in caplog.text
    for words in (["a", "b"], ["b", "a"], ["a", "c"], ["a", "c", "b"]):
        want = -model.score(words) * math.log(10)
        assert cost(fst, [IDS[w] for w in words], 4) == pytest.approx(want)
    with pytest.raises(LangError, match="'x'; give them pronunciations"):
        grammar_fst(model, IDS, strict=True)
    with pytest.raises(LangError, match="no word in common"):
        grammar_fst(train_ngram(["x y"], 2), IDS)


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Lang:
    return prepare_lang(LangConfig(unit="char"), ["a ab b", "ba"], [], tmp_path_factory.mktemp("l"))


def best_words(lang: Lang, grammar: kaldifst.StdVectorFst, text: str) -> tuple[str, float]:
    lexicon = kaldifst.StdVectorFst.read(str(lang.dir / "L_disambig.fst"))
    graph = kaldifst.compose(lexicon, grammar)
    kaldifst.determinize_star(graph)
    tokens = kaldifst.StdVectorFst()
    for state, token in enumerate(lang.encode(text)):
        tokens.add_state()
        tokens.add_arc(state, kaldifst.StdArc(token, token, 0.0, state + 1))
        for mark in lang.disambig_ids:
            tokens.add_arc(state, kaldifst.StdArc(mark, mark, 0.0, state))
    last = tokens.add_state()
    for mark in lang.disambig_ids:
        tokens.add_arc(last, kaldifst.StdArc(mark, mark, 0.0, last))
    tokens.start = 0
    tokens.set_final(last, 0.0)
    kaldifst.arcsort(tokens, "olabel")
    best = kaldifst.shortest_path(kaldifst.compose(tokens, graph))
    words, total, state = [], 0.0, best.start
    while best.num_arcs(state):
        arc = next(iter(kaldifst.ArcIterator(best, state)))
        words += [lang.words[arc.olabel]] * (arc.olabel > 0)
        total, state = total + arc.weight.value, arc.nextstate
    return " ".join(words), total + best.final(state).value


def test_composes_with_l_disambig_and_determinises(lang: Lang, tmp_path: Path) -> None:
    model: NgramModel = train_ngram(["a ab", "ab b", "a b a", "ba ab"], 3)
    write_arpa(model, tmp_path / "lm.arpa")
    grammar = arpa_to_fst(tmp_path / "lm.arpa", lang)
    assert grammar.is_ilabel_sorted
    for text in ("a ab", "b a", "ba ab b"):
        words, total = best_words(lang, grammar, text)
        assert words == text
        assert total == pytest.approx(-model.score(text.split()) * math.log(10), abs=1e-4)


def test_token_grammar(lang: Lang) -> None:
    lines = [lang.token_text(lang.encode(t)) for t in ("a ab", "b ba")]
    model = train_ngram(lines, 2)
    fst = grammar_fst(model, label_ids(lang, "token"))
    ids = lang.encode("ab ba")
    want = -model.score(lang.token_text(ids).split()) * math.log(10)
    assert cost(fst, ids, lang.token_ids["#0"]) == pytest.approx(want)
    assert arpa_to_fst(model, lang, unit="token").num_states == len(fst.final)
    with pytest.raises(LangError, match="want word or token"):
        label_ids(lang, "letter")
