"""Entropy pruning of back-off n-gram models (Stolcke 1998), with SRILM's rules."""

from __future__ import annotations

import logging

import numpy as np

from lmu_asr.lang.trie import BOS, EOS, MINUS_INFINITY, Level, NgramModel

log = logging.getLogger(__name__)


def prune(model: NgramModel, threshold: float) -> NgramModel:
    """Drop n-grams whose loss raises the perplexity by less than the factor 1 + ``threshold``.

    Each n-gram's removal is judged by itself, from the highest order down; n-grams that longer
    ones start with stay. Back-offs are computed anew. Unigrams are never dropped.
    """
    # levels of its own: their back-offs are replaced below, the caller's model stays
    levels = [Level(x.parent, x.word, x.logprob, x.backoff) for x in model.levels]
    before = model.counts
    for order in range(model.order, 1, -1):
        current = NgramModel(model.symbols, levels)
        keep = _loss(current, order) >= np.log10(1.0 + threshold)
        if order < len(levels):
            keep[np.unique(levels[order].parent)] = True
        levels = _drop(levels, order, keep)
    while len(levels) > 1 and not len(levels[-1]):
        levels.pop()
    levels[-1].backoff = np.zeros(len(levels[-1]))
    pruned = renormalize(NgramModel(model.symbols, levels))
    log.info("pruned at %g: n-grams %s of %s stay", threshold, pruned.counts, before)
    return pruned


def _loss(model: NgramModel, order: int) -> np.ndarray:
    """Rise of log10 perplexity when each n-gram of ``order`` alone is dropped, (M,) float64."""
    level = model.levels[order - 1]
    if not len(level):
        return np.zeros(0)
    kept, lower = _left_over(model, order)
    kept, lower = kept[level.parent], lower[level.parent]
    prob, below = 10.0**level.logprob, 10.0 ** _lower_logprob(model, order)
    old_backoff = model.levels[order - 2].backoff[level.parent]
    with np.errstate(divide="ignore", invalid="ignore"):
        new_backoff = np.log10(kept + prob) - np.log10(lower + below)
        own = prob * (np.log10(below) + new_backoff - level.logprob)
        others = kept * (new_backoff - old_backoff)
        loss = -_context_prob(model, order)[level.parent] * (own + others)
    # where no probability is left over the loss has no value: the n-gram stays
    return np.where(np.isfinite(loss), loss, np.inf)


def _left_over(model: NgramModel, order: int) -> tuple[np.ndarray, np.ndarray]:
    """For each context of order - 1 words: 1 - sum of p(w|h), and 1 - sum of p(w|h') over its w."""
    level = model.levels[order - 1]
    contexts = len(model.levels[order - 2])
    kept = 1.0 - np.bincount(level.parent, 10.0**level.logprob, contexts)
    below = 10.0 ** _lower_logprob(model, order)
    lower = 1.0 - np.bincount(level.parent, below, contexts)
    return np.maximum(kept, 0.0), np.maximum(lower, 0.0)


def _lower_logprob(model: NgramModel, order: int) -> np.ndarray:
    """log10 p(w | h') of each n-gram h w of ``order``, with h' = h without its first word."""
    words = model.words_of(order)
    suffix = model.suffixes[order - 1]
    found = model.levels[order - 2].logprob[np.maximum(suffix, 0)]
    lacking = np.flatnonzero(suffix < 0)
    if len(lacking):
        found = found.copy()
        found[lacking] = model.conditional(words[lacking, 1:-1], words[lacking, -1])
    return found


def _context_prob(model: NgramModel, order: int) -> np.ndarray:
    """p(h) of each context of order - 1 words by the chain rule; ``<s>`` is as likely as ``</s>``."""
    own = model.levels[0].logprob.copy()
    if BOS in model.ids and EOS in model.ids:
        own[model.ids[BOS]] = own[model.ids[EOS]]
    logprob = own
    for level in model.levels[1 : order - 1]:
        logprob = logprob[level.parent] + level.logprob
    return 10.0**logprob


def _drop(levels: list[Level], order: int, keep: np.ndarray) -> list[Level]:
    old = levels[order - 1]
    new = Level(old.parent[keep], old.word[keep], old.logprob[keep], old.backoff[keep])
    result = [*levels[: order - 1], new, *levels[order:]]
    if order < len(levels):
        row = np.cumsum(keep) - 1
        up = levels[order]
        result[order] = Level(row[up.parent], up.word, up.logprob, up.backoff)
    return result


def renormalize(model: NgramModel) -> NgramModel:
    """Compute every back-off anew from the probabilities, so that each context sums to one."""
    for order in range(2, model.order + 1):
        kept, lower = _left_over(model, order)
        contexts = model.levels[order - 2]
        has_children = np.zeros(len(contexts), dtype=bool)
        has_children[model.levels[order - 1].parent] = True
        with np.errstate(divide="ignore", invalid="ignore"):
            fresh = np.log10(kept) - np.log10(lower)
        fresh = np.where(np.isfinite(fresh), fresh, MINUS_INFINITY)
        contexts.backoff = np.where(has_children, fresh, 0.0)
    return model
