"""Kneser-Ney estimation against lmplz's own output, a hand-worked case and a plain reference."""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.errors import LangError
from lmu_asr.lang.ngram import NgramModel, read_arpa, train_ngram, train_token_ngram

DATA = Path(__file__).parent / "data"
SENTENCES = st.lists(
    st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=1, max_size=12
)


def table(model: NgramModel) -> dict[tuple[str, ...], tuple[float, float]]:
    rows = {}
    for order, level in enumerate(model.levels, 1):
        words = model.words_of(order).tolist()
        for ids, prob, bow in zip(words, level.logprob, level.backoff, strict=True):
            rows[tuple(model.symbols[i] for i in ids)] = (10.0**prob, 10.0**bow)
    return rows


def reference(sentences: list[str], order: int) -> dict[tuple[str, ...], tuple[float, float]]:
    """The definitions, one n-gram at a time, in float64."""
    raw: list[Counter] = [Counter() for _ in range(order)]
    for words in (("<s>", *s.split(), "</s>") for s in sentences):
        for k in range(1, order + 1):
            raw[k - 1].update(words[i : i + k] for i in range(len(words) - k + 1))
    adjusted = [dict(raw[-1])]
    for k in range(order - 1, 0, -1):
        left: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for gram in raw[k]:
            left[gram[1:]].add(gram[0])
        counts = {g: n if g[0] == "<s>" else len(left[g]) for g, n in raw[k - 1].items()}
        adjusted.insert(0, counts)
    adjusted[0] = {**adjusted[0], ("<unk>",): 0, ("<s>",): 0}
    result: dict[tuple[str, ...], tuple[float, float]] = {}
    prob: dict[tuple[str, ...], float] = {}
    gammas: dict[tuple[str, ...], float] = {}
    for counts in adjusted:
        n = Counter(counts.values())
        discount = [0.0, 0.5, 1.0, 1.5]
        if all(n[i] for i in (1, 2, 3)):
            y = n[1] / (n[1] + 2 * n[2])
            d = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
            discount = [0.0, *d] if all(0 <= x <= i for i, x in enumerate(d, 1)) else discount
        total: Counter = Counter()
        kept: dict[tuple[str, ...], float] = defaultdict(float)
        for gram, count in counts.items():
            total[gram[:-1]] += count
            kept[gram[:-1]] += discount[min(count, 3)]
        gammas.update({h: kept[h] / total[h] for h in total if total[h]})
        for gram, count in counts.items():
            below = prob[gram[1:]] if len(gram) > 1 else 1 / (len(adjusted[0]) - 1)
            own = (count - discount[min(count, 3)]) / total[gram[:-1]]
            prob[gram] = own + gammas[gram[:-1]] * below
    for gram, p in prob.items():
        result[gram] = (p, gammas.get(gram, 1.0) if len(gram) < order else 1.0)
    return result


def test_equals_the_output_of_lmplz() -> None:
    # the .arpa file was written by KenLM's lmplz -o 3 from the .txt file; its floats are 32 bits
    ours = table(train_ngram((DATA / "kneser_ney.txt").read_text().splitlines(), 3))
    theirs = table(read_arpa(DATA / "kneser_ney.arpa"))
    assert ours.keys() == theirs.keys() and len(ours) == 109 + 421 + 685
    del ours["<s>",], theirs["<s>",]
    grams = sorted(theirs)
    np.testing.assert_allclose([ours[g] for g in grams], [theirs[g] for g in grams], rtol=2e-6)


def test_hand_worked_bigrams() -> None:
    # Bigrams: <s> a 3, a b 2, b </s> 2, a </s> 1, so n1..n4 = 1 2 1 0, Y = 1/5, D = 0.2 1.7 3.
    # Unigrams count left neighbours: a 1, b 1, </s> 2: n3 = 0, hence D = 0.5 1 1.5.
    found = table(train_ngram(["a b", "a b", "a"], 2))
    want = {
        ("a",): 0.5 / 4 + 0.5 / 4,
        ("b",): 0.25,
        ("</s>",): 1 / 4 + 0.5 / 4,
        ("<unk>",): 0.5 / 4,
        ("<s>", "a"): 0.25,
        ("a", "b"): 0.3 / 3 + 1.9 / 3 * 0.25,
        ("a", "</s>"): 0.8 / 3 + 1.9 / 3 * 0.375,
        ("b", "</s>"): 0.3 / 2 + 1.7 / 2 * 0.375,
    }
    assert {g: pytest.approx(found[g][0], rel=1e-12) for g in want} == want
    backoffs = {("<s>",): 1.0, ("a",): 1.9 / 3, ("b",): 0.85, ("</s>",): 1.0}
    assert {g: pytest.approx(found[g][1], rel=1e-12) for g in backoffs} == backoffs


@settings(max_examples=60, deadline=None)
@given(SENTENCES, st.integers(1, 4))
def test_equals_the_definitions(sentences: list[str], order: int) -> None:
    model, want = table(train_ngram(sentences, order)), reference(sentences, order)
    assert model.keys() == want.keys()
    for gram, (prob, backoff) in want.items():
        if gram != ("<s>",):
            assert model[gram] == pytest.approx((prob, backoff), rel=1e-9), gram


@settings(max_examples=25, deadline=None)
@given(SENTENCES, st.integers(1, 3))
def test_every_history_sums_to_one(sentences: list[str], order: int) -> None:
    model = train_ngram(sentences, order)
    size = len(model.symbols)
    words = np.array([i for i in range(size) if model.symbols[i] != "<s>"])
    for history in itertools.product(range(size), repeat=order - 1):
        histories = np.tile(np.array(history, dtype=np.int64), (len(words), 1))
        assert (10 ** model.conditional(histories, words)).sum() == pytest.approx(1.0, abs=1e-9)


def test_given_vocabulary() -> None:
    model = train_ngram(["a b a", "a c"], 2, vocabulary=["a", "b", "unseen"])
    rows = table(model)
    assert ("c",) not in rows and rows[("unseen",)][0] < rows[("b",)][0]
    assert rows[("a", "<unk>")][0] > rows[("<unk>",)][0]


def test_sentence_order_does_not_matter() -> None:
    text = (DATA / "kneser_ney.txt").read_text().splitlines()
    assert table(train_ngram(text, 3)) == table(train_ngram(text[::-1], 3))


def test_tokens_in_place_of_words() -> None:
    model = train_token_ngram([["▁a", "b"], ["▁a"]], 2)
    assert table(model) == table(train_ngram(["▁a b", "▁a"], 2))


def test_fallback_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train_ngram(["a"], 2)
    assert "order 1" in caplog.text and "0.5, 1, 1.5" in caplog.text


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [([], 2, "no sentence"), (["a"], 0, "order 0"), (["a", "b <s>"], 2, "sentence 2 holds <s>")],
)
def test_bad_input(sentences: list[str], order: int, message: str) -> None:
    with pytest.raises(LangError, match=message):
        train_ngram(sentences, order)
