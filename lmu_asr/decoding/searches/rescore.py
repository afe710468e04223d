"""Rescoring with another language model: of n-best lists, and of whole lattices.

A graph's score is that of lexicon and language model together. The graph's own model is taken out
word by word and the new one put in, so pronunciation and silence costs stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmu_asr.decoding.searches.ngram import NgramScorer, State
from lmu_asr.fsa.lattice import Lattice, Path, make_lattice
from lmu_asr.lang.lang import Lang

# a pair is one int64: the lattice state above these bits, the context below
CONTEXT_BITS = 32
CONTEXT_MASK = (1 << CONTEXT_BITS) - 1


@dataclass
class Exchange:
    """The graph's language model and the one to put in its place.

    Attributes:
        old: the model that the graph was compiled with.
        new: the model to rescore with.
        lang: word symbols.
    """

    old: NgramScorer
    new: NgramScorer
    lang: Lang

    @property
    def start(self) -> tuple[State, State]:
        """States of both models at the beginning of a sentence."""
        return self.old.start, self.new.start

    def step(self, state: tuple[State, State], word: int) -> tuple[float, tuple[State, State]]:
        """Return by how much the new model prefers ``word``, and the states behind it."""
        symbol = self.lang.words[word]
        before, old = self.old.step(state[0], symbol)
        after, new = self.new.step(state[1], symbol)
        return after - before, (old, new)

    def end(self, state: tuple[State, State]) -> float:
        """Return by how much the new model prefers the end of the sentence."""
        return self.new.end(state[1]) - self.old.end(state[0])

    def difference(self, words: Sequence[int]) -> float:
        """Return by how much the new model prefers a sentence of word ids."""
        total, state = 0.0, self.start
        for word in words:
            gain, state = self.step(state, word)
            total += gain
        return total + self.end(state)


def rescore_paths(paths: Sequence[Path], exchange: Exchange) -> list[Path]:
    """Give each path the language-model score of the new model; the order stays."""
    return [
        replace(path, lm_score=path.lm_score + exchange.difference(path.words)) for path in paths
    ]


def rescore_lattice(lattice: Lattice, exchange: Exchange) -> Lattice:
    """Compose a lattice with the difference of two language models, on the fly and exactly.

    States of the result are pairs of a lattice state and the models' contexts, kept as one integer
    each, so every path gets the score that its words have under the new model.
    """
    contexts = _Contexts(exchange)
    level_of = np.repeat(np.arange(len(lattice.levels)), [e - b for b, e in lattice.levels])
    waiting: list[list[np.ndarray]] = [[] for _ in lattice.levels]
    waiting[0].append(np.zeros(1, dtype=np.int64))
    reached: list[np.ndarray] = []
    columns: list[tuple[np.ndarray, ...]] = []
    for level in range(len(lattice.levels)):
        if not waiting[level]:
            continue
        # arcs lead to later levels alone, so every pair of this one is known by now
        pairs = np.unique(np.concatenate(waiting[level]))
        arc, source = _leaving(lattice, pairs >> CONTEXT_BITS)
        gain, after = contexts.advance(pairs[source] & CONTEXT_MASK, lattice.word[arc])
        target = lattice.dst[arc].astype(np.int64) << CONTEXT_BITS | after
        reached.append(pairs)
        columns.append((pairs[source], target, arc, gain))
        below = level_of[lattice.dst[arc]]
        for other in set(below.tolist()):
            waiting[other].append(target[below == other])
    return _assemble(lattice, np.concatenate(reached), columns, contexts)


def _leaving(lattice: Lattice, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arcs that leave each of ``states``, and for each arc the index of its state."""
    begin = lattice.arc_offsets[states]
    counts = lattice.arc_offsets[states + 1] - begin
    source = np.repeat(np.arange(len(states)), counts)
    inside = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    return begin[source] + inside, source


def _assemble(
    lattice: Lattice,
    pairs: np.ndarray,
    columns: list[tuple[np.ndarray, ...]],
    contexts: _Contexts,
) -> Lattice:
    src, dst, arc, gain = (np.concatenate(column) for column in zip(*columns, strict=True))
    pairs = np.sort(pairs)  # the start, state 0 in context 0, comes first
    final = lattice.final[pairs >> CONTEXT_BITS]
    ending = np.flatnonzero(final > -np.inf)
    ends = (pairs[ending] & CONTEXT_MASK).tolist()
    final[ending] += [contexts.end(context) for context in ends]
    return make_lattice(
        # sorted pairs keep the topological order, since the lattice state is the upper half
        np.searchsorted(pairs, src),
        np.searchsorted(pairs, dst),
        lattice.token[arc],
        lattice.word[arc],
        lattice.am[arc],
        lattice.lm[arc] + gain,
        final,
        lattice.acoustic_scale,
        lattice.lm_scale,
    )


class _Contexts:
    """Numbers for the pairs of language-model states, and a table of their steps."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.states = [exchange.start]
        self.numbers = {exchange.start: 0}
        self.steps: dict[tuple[int, int], tuple[float, int]] = {}

    def advance(self, context: np.ndarray, word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gains and contexts after ``word``; epsilon (0) changes nothing."""
        gain, after = np.zeros(len(word)), context.copy()
        worded = np.flatnonzero(word)
        for index in worded.tolist():
            gain[index], after[index] = self._step(int(context[index]), int(word[index]))
        return gain, after

    def _step(self, context: int, word: int) -> tuple[float, int]:
        key = (context, word)
        if key not in self.steps:
            gain, state = self.exchange.step(self.states[context], word)
            if state not in self.numbers:
                self.numbers[state] = len(self.states)
                self.states.append(state)
            self.steps[key] = (gain, self.numbers[state])
        return self.steps[key]

    def end(self, context: int) -> float:
        """By how much the new model prefers the end of the sentence in a context."""
        return self.exchange.end(self.states[context])
