"""An n-gram model as a machine that reads one word at a time, for fusion and rescoring."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from lmu_asr.lang.ngram import BOS, EOS, UNK, NgramModel, read_arpa

LOG10 = math.log(10.0)
OOV_LOGPROB = -10.0 * LOG10
State = tuple[int, int]


class NgramScorer:
    """Steps through a back-off model; a state is the longest context known: (order, row).

    Scores are natural log probabilities. A word outside a vocabulary without ``<unk>`` costs
    ``OOV_LOGPROB`` and forgets the context.
    """

    def __init__(self, model: NgramModel) -> None:
        self.model = model
        self._suffixes = model.suffixes
        size = len(model.symbols)
        self._keys = [level.keys(size) for level in model.levels]
        self._cache: dict[tuple[State, int], tuple[float, State]] = {}
        self.start: State = self._context(1, model.ids[BOS]) if BOS in model.ids else (0, 0)

    @staticmethod
    def load(path: Path) -> NgramScorer:
        """Read an ARPA file.

        Raises:
            LangError: the file is broken, naming the line.
        """
        return NgramScorer(read_arpa(path))

    def step(self, state: State, word: str) -> tuple[float, State]:
        """Return ln p(word | state) and the state after it."""
        index = self.model.ids.get(word, self.model.ids.get(UNK))
        if index is None:
            return OOV_LOGPROB, (0, 0)
        key = (state, index)
        if key not in self._cache:
            self._cache[key] = self._step(state, index)
        return self._cache[key]

    def end(self, state: State) -> float:
        """Return ln p(end of sentence | state); 0 for a model without it."""
        return self.step(state, EOS)[0] if EOS in self.model.ids else 0.0

    def score(self, words: list[str]) -> float:
        """Return ln p of a whole sentence."""
        total, state = 0.0, self.start
        for word in words:
            logprob, state = self.step(state, word)
            total += logprob
        return total + self.end(state)

    def _step(self, state: State, word: int) -> tuple[float, State]:
        order, row = state
        total = 0.0
        while True:
            found = self._find(order + 1, row, word) if order < self.model.order else -1
            if found >= 0:
                total += float(self.model.levels[order].logprob[found])
                # ARPA files have logarithms to base 10
                return total * LOG10, self._context(order + 1, found)
            if order == 0:
                return OOV_LOGPROB, (0, 0)
            total += float(self.model.levels[order - 1].backoff[row])
            order, row = self._shorter(order, row)

    def _context(self, order: int, row: int) -> State:
        """The context that an n-gram leaves: itself, shortened to order - 1 words of the model."""
        state = (order, row)
        while state[0] >= self.model.order:
            state = self._shorter(*state)
        return state

    def _shorter(self, order: int, row: int) -> State:
        """The n-gram without its first words, as long as the model knows it."""
        if order <= 1:
            return (0, 0)
        suffix = int(self._suffixes[order - 1][row])
        # a pruned model may lack this suffix and still know a shorter one
        return (order - 1, suffix) if suffix >= 0 else self._search_shorter(order, row)

    def _search_shorter(self, order: int, row: int) -> State:
        words: list[int] = []
        for level in reversed(self.model.levels[:order]):
            words.append(int(level.word[row]))
            row = int(level.parent[row])
        words.reverse()
        for begin in range(2, order):
            found = 0
            for length, word in enumerate(words[begin:], 1):
                found = self._find(length, found, word) if found >= 0 else -1
            if found >= 0:
                return (order - begin, found)
        return (0, 0)

    def _find(self, order: int, parent: int, word: int) -> int:
        keys = self._keys[order - 1]
        # parent and word in one number, sorted as the level's rows are, so that bisection finds it
        key = parent * len(self.model.symbols) + word
        at = int(np.searchsorted(keys, key))
        return at if at < len(keys) and keys[at] == key else -1
