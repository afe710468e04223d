"""Back-off n-gram models as arrays: one sorted level for each order, n-grams as paths in a trie.

Shape legend: V symbols, M n-grams of one order. An n-gram of order k is a row of level k: the row of
its first k-1 words in level k-1 (``parent``) and its last word (``word``). Rows are sorted by parent,
then word, so a look-up is a binary search and equal models have equal arrays. Log probabilities
are base 10, as in ARPA files.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lmu_asr.errors import LangError

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
NOT_FOUND = -1
MINUS_INFINITY = -99.0  # what ARPA files write for log10 of zero


@dataclass
class Level:
    """All n-grams of one order: ``parent word`` (M,) int64, ``logprob backoff`` (M,) float64."""

    parent: np.ndarray
    word: np.ndarray
    logprob: np.ndarray
    backoff: np.ndarray

    def __len__(self) -> int:
        return len(self.word)

    def keys(self, vocab_size: int) -> np.ndarray:
        """One int64 for each row, in increasing order."""
        return self.parent * vocab_size + self.word


@dataclass
class Perplexity:
    """Outcome of scoring text: counts and log10 probability, without out-of-vocabulary words."""

    sentences: int
    words: int
    oov: int
    logprob: float

    @property
    def ppl(self) -> float:
        """Perplexity over words and sentence ends."""
        count = self.words - self.oov + self.sentences
        return float(10.0 ** (-self.logprob / max(count, 1)))

    @property
    def ppl1(self) -> float:
        """Perplexity over words alone, as SRILM's ``ppl1``."""
        return float(10.0 ** (-self.logprob / max(self.words - self.oov, 1)))


class NgramModel:
    """A back-off n-gram model.

    Attributes:
        symbols: the vocabulary; the index is the word id in all levels.
        levels: ``levels[k - 1]`` holds the n-grams of order k. Level 1 holds words in increasing
            order of id, each with parent 0.
    """

    def __init__(self, symbols: Sequence[str], levels: Sequence[Level]) -> None:
        self.symbols = list(symbols)
        self.levels = list(levels)
        self.ids = {symbol: index for index, symbol in enumerate(self.symbols)}

    @property
    def order(self) -> int:
        """Longest n-gram."""
        return len(self.levels)

    @property
    def counts(self) -> list[int]:
        """Number of n-grams of each order."""
        return [len(level) for level in self.levels]

    @functools.cached_property
    def _keys(self) -> list[np.ndarray]:
        return [level.keys(len(self.symbols)) for level in self.levels]

    def find(self, order: int, parent: np.ndarray, word: np.ndarray) -> np.ndarray:
        """Rows of the given n-grams in level ``order``; -1 where there is none. All (M,) int64."""
        keys = self._keys[order - 1]
        if not len(keys):
            return np.full(len(word), NOT_FOUND)
        want = parent * len(self.symbols) + word
        at = np.minimum(np.searchsorted(keys, want), len(keys) - 1)
        return np.where((keys[at] == want) & (parent >= 0) & (word >= 0), at, NOT_FOUND)

    @functools.cached_property
    def suffixes(self) -> list[np.ndarray]:
        """For each level the row in the level below of the n-gram without its first word, or -1."""
        rows = [np.zeros(len(self.levels[0]), dtype=np.int64)]
        for order in range(2, self.order + 1):
            level = self.levels[order - 1]
            if order == 2:
                rows.append(self.find(1, np.zeros_like(level.word), level.word))
            else:
                rows.append(self.find(order - 1, rows[-1][level.parent], level.word))
        return rows

    def words_of(self, order: int) -> np.ndarray:
        """The word ids of all n-grams of ``order``, (M, order) int64."""
        columns = []
        rows = np.arange(len(self.levels[order - 1]))
        for level in reversed(self.levels[:order]):
            columns.append(level.word[rows])
            rows = level.parent[rows]
        return np.stack(columns[::-1], axis=1)

    def conditional(self, histories: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return log10 p(word | history).

        ``histories`` is (M, order - 1) int64, the nearest word last and -1 where the sentence has
        no earlier word; ``words`` is (M,) int64. -inf where the vocabulary lacks the word.
        """
        rows = self.context_rows(histories)
        total = np.zeros(len(words))
        open_ = np.ones(len(words), dtype=bool)
        for length in range(histories.shape[1], -1, -1):
            context = rows[length]
            found = self.find(length + 1, context, words)
            hit = open_ & (context >= 0) & (found >= 0)
            total[hit] += self.levels[length].logprob[found[hit]]
            open_ &= ~hit
            # a history that the model lacks backs off at no cost
            back = open_ & (context >= 0)
            if length:
                total[back] += self.levels[length - 1].backoff[context[back]]
        total[open_] = -np.inf
        return total

    def context_rows(self, histories: np.ndarray) -> list[np.ndarray]:
        """Rows of the last 0, 1, 2, ... words of each history in the level of that order."""
        result = [np.zeros(len(histories), dtype=np.int64)]
        for length in range(1, histories.shape[1] + 1):
            rows = np.zeros(len(histories), dtype=np.int64)
            for order in range(1, length + 1):
                word = histories[:, histories.shape[1] - length + order - 1]
                found = self.find(order, rows, word)
                rows = np.where(rows >= 0, found, NOT_FOUND)
            result.append(rows)
        return result

    def score(self, words: Sequence[str], bos: bool = True, eos: bool = True) -> float:
        """Return log10 probability of one sentence; unknown words count as ``<unk>``.

        Raises:
            LangError: a word outside a vocabulary that has no ``<unk>``.
        """
        unknown = self.ids.get(UNK)
        ids = [self.ids.get(word, unknown) for word in words]
        if None in ids:
            word = words[ids.index(None)]
            raise LangError(f"word {word!r} is not in the language model, which has no {UNK}")
        stream = [BOS] * bos, [EOS] * eos
        full = [self.ids[s] for s in stream[0]] + list(ids) + [self.ids[s] for s in stream[1]]
        histories, targets = self._windows(np.array(full), np.zeros(len(full), dtype=np.int64))
        return float(self.conditional(histories[int(bos) :], targets[int(bos) :]).sum())

    def _windows(self, stream: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Histories of each position of a stream of sentences that begin at ``start`` (per word)."""
        position = np.arange(len(stream))
        back = np.arange(self.order - 1, 0, -1)
        at = position[:, None] - back[None, :]
        inside = at >= start[:, None]
        return np.where(inside, stream[np.maximum(at, 0)], NOT_FOUND), stream

    def perplexity(self, sentences: Iterable[str]) -> Perplexity:
        """Score sentences with ``<s>`` and ``</s>``.

        Words outside the vocabulary are counted and not scored, and cut the history, as SRILM
        and KenLM's "excluding OOVs" figure do.
        """
        result = Perplexity(0, 0, 0, 0.0)
        buffer: list[list[str]] = []
        for sentence in sentences:
            buffer.append(sentence.split())
            if len(buffer) == 10000:
                self._add_perplexity(buffer, result)
                buffer = []
        self._add_perplexity(buffer, result)
        return result

    def _add_perplexity(self, sentences: list[list[str]], result: Perplexity) -> None:
        if not sentences:
            return
        unknown = self.ids.get(UNK, NOT_FOUND)
        bos, eos = self.ids.get(BOS, NOT_FOUND), self.ids.get(EOS, NOT_FOUND)
        ids = [i for s in sentences for i in (bos, *(self.ids.get(w, unknown) for w in s), eos)]
        lengths = np.array([len(s) + 2 for s in sentences])
        stream = np.array(ids, dtype=np.int64)
        start = np.repeat(np.cumsum(lengths) - lengths, lengths)
        histories, targets = self._windows(stream, start)
        scored = np.arange(len(stream)) > start
        oov = scored & ((targets == unknown) | (targets < 0))
        scores = self.conditional(histories, targets)
        result.sentences += len(sentences)
        result.words += int(lengths.sum()) - 2 * len(sentences)
        result.oov += int(oov.sum())
        result.logprob += float(scores[scored & ~oov].sum())
