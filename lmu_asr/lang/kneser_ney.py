"""Interpolated modified Kneser-Ney estimation (Chen and Goodman 1998), as KenLM's lmplz does it.

Conventions: every sentence is ``<s> words </s>`` with one ``<s>``. Below the highest order an n-gram
counts its different left neighbours, except that n-grams that begin with ``<s>`` keep their own
counts. Each order has three discounts from its counts of counts. Unigrams are interpolated with
the uniform distribution over the vocabulary with ``<unk>`` and ``</s>`` but without ``<s>``; that
share is all that ``<unk>`` gets unless the text contains it. Where the counts of counts give no
discounts (text too small or artificial) the fallback 0.5, 1, 1.5 takes their place, said in one line.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lmu_asr.errors import LangError
from lmu_asr.lang.trie import BOS, EOS, MINUS_INFINITY, UNK, Level, NgramModel

log = logging.getLogger(__name__)

# those of lmplz's --discount_fallback
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass
class _Counts:
    """N-grams of one order: rows as in Level, the row of the n-gram without its first word, counts."""

    parent: np.ndarray
    word: np.ndarray
    suffix: np.ndarray
    adjusted: np.ndarray


def train_ngram(
    sentences: Iterable[str],
    order: int,
    vocabulary: Iterable[str] | None = None,
    fallback: Sequence[float] = FALLBACK_DISCOUNTS,
) -> NgramModel:
    """Estimate a model of ``order`` from sentences (words between white space; in memory).

    With ``vocabulary`` the words outside it become ``<unk>`` and its words that the text lacks get
    the unigram share of unseen words. ``fallback`` are the discounts of an order whose counts of
    counts give none.

    Raises:
        LangError: no sentence, ``<s>`` or ``</s>`` within one, or an order below 1.
    """
    if order < 1:
        raise LangError(f"n-gram order {order}: want 1 or more")
    symbols, stream, start = _read(sentences, vocabulary)
    orders = _count(stream, start, order, len(symbols))
    levels: list[Level] = []
    for index, counts in enumerate(orders):
        discounts = _discounts(counts.adjusted, index + 1, fallback)
        levels.append(_interpolate(counts, discounts, levels, len(symbols)))
    return NgramModel(symbols, levels)


def train_token_ngram(token_lines: Iterable[Sequence[str]], order: int) -> NgramModel:
    """Estimate a model over tokens (BPE pieces, characters, phones): one sequence a sentence."""
    return train_ngram((" ".join(tokens) for tokens in token_lines), order)


def _read(
    sentences: Iterable[str], vocabulary: Iterable[str] | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return symbols, the ids of all sentences with ``<s>`` and ``</s>``, and where each one starts."""
    ids: dict[str, int] = {UNK: 0, BOS: 1, EOS: 2}
    given = None if vocabulary is None else set(vocabulary) - ids.keys()
    stream, start = array("q"), array("q")
    for number, sentence in enumerate(sentences, 1):
        words = sentence.split()
        if BOS in words or EOS in words:
            raise LangError(f"sentence {number} holds {BOS} or {EOS}: give the words alone")
        start.append(len(stream))
        if given is not None:
            words = [word if word in given else UNK for word in words]
        stream.extend([1, *(ids.setdefault(word, len(ids)) for word in words), 2])
    if not start:
        raise LangError("no sentence to estimate a language model from")
    for word in given or ():
        ids.setdefault(word, len(ids))
    symbols, new_id = _sorted_symbols(list(ids))
    lengths = np.diff([*start, len(stream)])
    return symbols, new_id[np.array(stream)], np.repeat(np.array(start), lengths)


def _sorted_symbols(names: list[str]) -> tuple[list[str], np.ndarray]:
    """Order the words after the three special symbols, so that equal counts give equal models."""
    ranked = [0, 1, 2, *sorted(range(3, len(names)), key=names.__getitem__)]
    new_id = np.empty(len(names), dtype=np.int64)
    new_id[ranked] = np.arange(len(names))
    return [names[i] for i in ranked], new_id


def _count(stream: np.ndarray, start: np.ndarray, order: int, vocab_size: int) -> list[_Counts]:
    """Count the n-grams of all orders in one stream of sentences that begin at ``start``."""
    position = np.arange(len(stream))
    word = np.arange(vocab_size)
    zero = np.zeros_like(word)
    result = [_Counts(zero, word, zero, np.bincount(stream, minlength=vocab_size))]
    row = stream  # of the n-gram that ends at each position, in the level of its order
    begins = word == 1  # n-grams with <s> first
    for length in range(2, order + 1):
        # no n-gram reaches across the start of its sentence
        at = position[position - (length - 1) >= start]
        keys, sample, inverse, raw = np.unique(
            # context and last word in one int64: unique() over rows of words would sort far slower
            row[at - 1] * vocab_size + stream[at],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        # row still numbers the n-grams one word shorter: what ends here is this one's suffix
        suffix = row[at[sample]]
        left = np.bincount(suffix, minlength=len(begins))
        result[-1].adjusted = np.where(begins, result[-1].adjusted, left)
        parent, word = np.divmod(keys, vocab_size)
        begins = begins[parent]
        result.append(_Counts(parent, word, suffix, raw))
        row = np.full(len(stream), -1, dtype=np.int64)
        row[at] = inverse
    result[0].adjusted[1] = 0  # <s> is never predicted
    return result


def _discounts(adjusted: np.ndarray, order: int, fallback: Sequence[float]) -> np.ndarray:
    """D(0) .. D(3+) of one order, (4,) float64: equation 26 of Chen and Goodman (1998)."""
    # the discounts need the counts of 1 to 4 alone
    n = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(np.float64)
    if (n[1:4] > 0).all():
        y = n[1] / (n[1] + 2 * n[2])
        k = np.arange(1, 4)
        found = k - (k + 1) * y * n[2:5] / n[1:4]
        if ((found >= 0) & (found <= k)).all():
            return np.concatenate([[0.0], found])
    counted = {count: int(n[count]) for count in range(1, 5)}
    log.info(
        "order %d: counts of counts %s give no Kneser-Ney discounts (text too small or "
        "artificial): using %s",
        order,
        counted,
        ", ".join(f"{d:g}" for d in fallback),
    )
    return np.array([0.0, *fallback])


def _interpolate(
    counts: _Counts, discounts: np.ndarray, lower: list[Level], vocab_size: int
) -> Level:
    """Probabilities of one order from discounted counts and the order below; sets its back-offs."""
    contexts = len(lower[-1]) if lower else 1
    discount = discounts[np.minimum(counts.adjusted, 3)]
    total = np.bincount(counts.parent, weights=counts.adjusted, minlength=contexts)
    kept = np.bincount(counts.parent, weights=discount, minlength=contexts)
    seen = total > 0
    gamma = np.ones(contexts)
    gamma[seen] = kept[seen] / total[seen]
    if lower:
        below = 10.0 ** lower[-1].logprob[counts.suffix]
        with np.errstate(divide="ignore"):
            backoff = np.where(gamma > 0, np.log10(gamma), MINUS_INFINITY)
        lower[-1].backoff = np.where(seen, backoff, 0.0)
    else:
        # without <s>, which is never predicted
        below = np.full(len(counts.word), 1.0 / (vocab_size - 1))
    own = (counts.adjusted - discount) / total[counts.parent]
    with np.errstate(divide="ignore"):
        logprob = np.log10(own + gamma[counts.parent] * below)
    if not lower:
        logprob[1] = MINUS_INFINITY
    logprob = np.maximum(logprob, MINUS_INFINITY)
    return Level(counts.parent, counts.word, logprob, np.zeros(len(counts.word)))
