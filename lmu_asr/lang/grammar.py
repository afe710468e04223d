"""The grammar transducer G of a back-off n-gram model: equivalent to Kaldi's arpa2fst, and smaller.

A state is a history that some n-gram continues (arpa2fst keeps some that none does); arcs carry words with cost -ln p. Backing off is an
arc with ``#0`` as input and epsilon as output, so that G stays determinisable after composition
with L_disambig, and words alone come out. ``</s>`` becomes final costs, ``<s>`` the start state.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import kaldifst
import numpy as np

from lmu_asr.errors import LangError
from lmu_asr.lang.arpa import read_arpa
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.openfst import FstColumns, write_fst
from lmu_asr.lang.trie import BOS, EOS, UNK, Level, NgramModel

log = logging.getLogger(__name__)

LN10 = math.log(10.0)
_WORDS_NAMED = 10


def arpa_to_fst(
    arpa: str | Path | NgramModel, lang: Lang, strict: bool = False, unit: str = "word"
) -> kaldifst.StdVectorFst:
    """Return G of an ARPA file or model, input-sorted, with labels of ``lang``.

    ``unit="token"`` takes a model over tokens in place of words (labels from ``tokens.txt``).
    N-grams with words that ``lang`` lacks are left out, counted in one line of the log.

    Raises:
        LangError: broken ARPA; no word in common with ``lang``; with ``strict``, any word of the
            model that ``lang`` lacks.
    """
    model = arpa if isinstance(arpa, NgramModel) else read_arpa(arpa)
    fst = grammar_fst(model, label_ids(lang, unit), strict)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "G.fst"
        write_fst(path, fst)
        return kaldifst.StdVectorFst.read(str(path))


def label_ids(lang: Lang, unit: str) -> dict[str, int]:
    """Labels that G may carry: words of ``lang``, or its real tokens, and ``#0``."""
    if unit == "token":
        ids = {token: index for index, token in enumerate(lang.tokens) if index}
        return {**ids, "#0": lang.token_ids["#0"]}
    if unit != "word":
        raise LangError(f"unit {unit!r} of a grammar: want word or token")
    return {
        word: index for word, index in lang.word_ids.items() if index and word not in (BOS, EOS)
    }


def grammar_fst(model: NgramModel, ids: Mapping[str, int], strict: bool = False) -> FstColumns:
    """Build G with labels ``ids`` (which hold ``#0`` for back-off arcs); see :func:`arpa_to_fst`."""
    labels = np.array([ids.get(symbol, 0) for symbol in model.symbols], dtype=np.int64)
    bos, eos = model.ids.get(BOS, -1), model.ids.get(EOS, -1)
    for special in (bos, eos, model.ids.get("#0", -1)):
        if special >= 0:
            labels[special] = 0
    if eos < 0:
        raise LangError(f"the language model has no {EOS}: no sentence could end")
    known = labels > 0
    known[[index for index in (bos, eos) if index >= 0]] = True
    _report_unknown(model, known, strict)
    if not (labels > 0).any():
        raise LangError("the language model and the lexicon have no word in common")
    model = _restrict(model, known, bos, eos)
    return _Builder(model, labels, bos, eos, ids["#0"]).build()


def _report_unknown(model: NgramModel, known: np.ndarray, strict: bool) -> None:
    unknown = [s for s, fine in zip(model.symbols, known, strict=True) if not fine and s != UNK]
    if not unknown:
        return
    message = (
        f"{len(unknown)} of {len(model.symbols)} words of the language model are not in words.txt: "
        + ", ".join(map(repr, unknown[:_WORDS_NAMED]))
        + (" ..." if len(unknown) > _WORDS_NAMED else "")
    )
    if strict:
        raise LangError(f"{message}; give them pronunciations or take another model")
    log.info("%s; their n-grams are left out of G", message)


def _restrict(model: NgramModel, known: np.ndarray, bos: int, eos: int) -> NgramModel:
    """Keep n-grams of known words, ``<s>`` first and ``</s>`` last in them only."""
    levels: list[Level] = []
    row = np.zeros(1, dtype=np.int64)
    for order, level in enumerate(model.levels, 1):
        parent = row[level.parent]
        keep = (parent >= 0) & known[level.word]
        if order > 1:
            below = model.levels[order - 2]
            keep &= (below.word[level.parent] != eos) & (level.word != bos)
        # new row of each n-gram; -1 drops all that begin with it
        row = np.where(keep, np.cumsum(keep) - 1, -1)
        levels.append(
            Level(parent[keep], level.word[keep], level.logprob[keep], level.backoff[keep])
        )
    return NgramModel(model.symbols, levels)


class _Builder:
    """Arcs from every n-gram to the longest history that its end leaves behind."""

    def __init__(
        self, model: NgramModel, labels: np.ndarray, bos: int, eos: int, backoff_label: int
    ) -> None:
        self.model = model
        self.labels = labels
        self.bos = bos
        self.eos = eos
        self.backoff_label = backoff_label
        self.states, self.num_states = self._number_states()
        self.target: list[np.ndarray] = []
        self.passed: list[np.ndarray] = []
        self._find_targets()

    def build(self) -> FstColumns:
        """Return G, its arcs sorted by input label."""
        levels = self.model.levels
        parts = [self._word_arcs(order) for order in range(1, len(levels) + 1)]
        parts += [self._backoff_arcs(order) for order in range(1, len(levels))]
        src, dst, ilabel, olabel, cost = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        final = np.full(self.num_states, np.inf)
        for order, level in enumerate(levels, 1):
            ends = level.word == self.eos
            final[self._source(order)[ends]] = -LN10 * level.logprob[ends]
        fst = FstColumns(src, dst, ilabel, olabel, cost, final, self._start())
        return fst.sorted("ilabel")

    def _number_states(self) -> tuple[list[np.ndarray], int]:
        """State of each n-gram as a history, -1 where nothing continues it; 0 is the empty one."""
        levels = self.model.levels
        states, count = [], 1
        for order, level in enumerate(levels, 1):
            is_state = np.zeros(len(level), dtype=bool)
            if order < len(levels):
                is_state[levels[order].parent] = True
                if order == 1:
                    is_state[level.word == self.bos] = True
            number = count + np.cumsum(is_state) - 1
            states.append(np.where(is_state, number, -1))
            count += int(is_state.sum())
        return states, count

    def _find_targets(self) -> None:
        """For each n-gram the state it leads to, and the log10 back-offs passed on the way."""
        for order, level in enumerate(self.model.levels, 1):
            state = self.states[order - 1]
            below, below_passed = self._suffix_target(order)
            self.target.append(np.where(state >= 0, state, below))
            self.passed.append(np.where(state >= 0, 0.0, level.backoff + below_passed))

    def _suffix_target(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """Target of each n-gram's longest proper suffix that the model holds."""
        count = len(self.model.levels[order - 1])
        target, passed = np.zeros(count, dtype=np.int64), np.zeros(count)
        if order == 1:
            return target, passed
        suffix = self.model.suffixes[order - 1]
        found = suffix >= 0
        target[found] = self.target[order - 2][suffix[found]]
        passed[found] = self.passed[order - 2][suffix[found]]
        lacking = np.flatnonzero(~found)
        if len(lacking):
            rows = self.model.context_rows(self.model.words_of(order)[lacking, 1:])
            for shorter in range(1, order - 1):
                have = rows[shorter] >= 0
                target[lacking[have]] = self.target[shorter - 1][rows[shorter][have]]
                passed[lacking[have]] = self.passed[shorter - 1][rows[shorter][have]]
        return target, passed

    def _source(self, order: int) -> np.ndarray:
        parent = self.model.levels[order - 1].parent
        return np.zeros_like(parent) if order == 1 else self.states[order - 2][parent]

    def _word_arcs(self, order: int) -> tuple[np.ndarray, ...]:
        level = self.model.levels[order - 1]
        use = (level.word != self.bos) & (level.word != self.eos)
        label = self.labels[level.word[use]]
        cost = -LN10 * (level.logprob + self.passed[order - 1])[use]
        return self._source(order)[use], self.target[order - 1][use], label, label, cost

    def _backoff_arcs(self, order: int) -> tuple[np.ndarray, ...]:
        state = self.states[order - 1]
        use = state >= 0
        target, passed = self._suffix_target(order)
        cost = -LN10 * (self.model.levels[order - 1].backoff + passed)[use]
        label = np.full(int(use.sum()), self.backoff_label)
        return state[use], target[use], label, np.zeros_like(label), cost

    def _start(self) -> int:
        at = np.flatnonzero(self.model.levels[0].word == self.bos)
        return max(int(self.states[0][at[0]]), 0) if len(at) else 0
