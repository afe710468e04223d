"""Entropy pruning against the relative entropy computed word by word."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from lmu_asr.lang.ngram import Level, NgramModel, prune, train_ngram
from lmu_asr.lang.prune import renormalize

TEXT = ["a b c", "a b d", "b c a", "a c", "d a b", "a b", "c c d a", "b d", "a b c d", "c"]
DATA = Path(__file__).parent / "data"


def without(model: NgramModel, order: int, row: int) -> NgramModel:
    levels = [Level(x.parent, x.word, x.logprob, x.backoff.copy()) for x in model.levels]
    old = levels[order - 1]
    keep = np.arange(len(old)) != row
    levels[order - 1] = Level(
        old.parent[keep], old.word[keep], old.logprob[keep], old.backoff[keep]
    )
    return renormalize(NgramModel(model.symbols, levels))


def loss(model: NgramModel, other: NgramModel, history: list[int]) -> float:
    """p(h) * KL divergence of the two models' predictions after h, base 10."""
    words = np.array([i for i, s in enumerate(model.symbols) if s != "<s>"])
    histories = np.tile(np.array(history), (len(words), 1))
    p, q = model.conditional(histories, words), other.conditional(histories, words)
    of_history = 0.0
    for i, word in enumerate(history):
        if word >= 0:
            if model.symbols[word] == "<s>":  # as likely as a sentence's end
                word = model.ids["</s>"]
            before = np.array([[-1] * (len(history) - i) + history[:i]])
            of_history += model.conditional(before, np.array([word]))[0]
    return float(10**of_history * (10**p * (p - q)).sum())


@pytest.mark.parametrize("order", [2, 3])
def test_drops_what_costs_less_than_the_threshold(order: int) -> None:
    model = train_ngram(TEXT, order)
    losses = []
    for row, ids in enumerate(model.words_of(order).tolist()):
        losses.append(loss(model, without(model, order, row), ids[:-1]))
    wanted = np.array(losses)
    order_of_loss = np.sort(wanted)
    middle = len(wanted) // 2
    threshold = 10 ** ((order_of_loss[middle - 1] + order_of_loss[middle]) / 2) - 1
    pruned = prune(model, threshold)
    kept = {tuple(ids) for ids in pruned.words_of(order).tolist()}
    expected = {
        tuple(ids)
        for ids, value in zip(model.words_of(order).tolist(), wanted, strict=True)
        if np.log10(1 + threshold) <= value
    }
    assert kept == expected and 0 < len(kept) < len(wanted)


def test_prunes_nothing_at_zero() -> None:
    text = (DATA / "kneser_ney.txt").read_text().splitlines()
    model = train_ngram(text, 3)
    pruned = prune(model, 0.0)
    assert pruned.counts == model.counts
    for a, b in zip(pruned.levels, model.levels, strict=True):
        np.testing.assert_allclose(a.backoff, b.backoff, atol=1e-9)


def test_sums_to_one_and_keeps_prefixes() -> None:
    text = (DATA / "kneser_ney.txt").read_text().splitlines()
    model = prune(train_ngram(text, 3), 1e-3)
    assert model.counts[0] == 109 and 0 < model.counts[2] < 685 and model.counts[1] < 421
    used = np.unique(model.levels[2].parent)
    assert used.max() < len(model.levels[1])
    words = np.array([i for i, s in enumerate(model.symbols) if s != "<s>"])
    pairs = [*model.words_of(3)[::40, :2].tolist(), [-1, 5], [1, 7], [2, 9]]
    for history in pairs:
        total = (10 ** model.conditional(np.tile(history, (len(words), 1)), words)).sum()
        assert total == pytest.approx(1.0, abs=1e-9)


def test_more_pruning_more_perplexity() -> None:
    text = (DATA / "kneser_ney.txt").read_text().splitlines()
    model = train_ngram(text, 3)
    values = [prune(model, t).perplexity(text).ppl for t in (0.0, 1e-4, 1e-3, 1e-2)]
    assert all(a < b for a, b in itertools.pairwise(values))


def test_drops_whole_orders() -> None:
    model = prune(train_ngram(TEXT, 3), 10.0)
    assert model.order == 1 and not model.levels[0].backoff.any()
