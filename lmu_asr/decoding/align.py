"""Forced alignment: where known words stand in the posteriors (Viterbi over CTC graphs).

Legend: T frames, V vocabulary, S states, E arcs. Every pronunciation of every word is tried, and
silence between words where the lexicon has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lmu_asr.errors import DataError
from lmu_asr.fsa.arrays import FstArrays
from lmu_asr.fsa.inputs import search_inputs
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.fsa.training_graphs import pronunciation_graph
from lmu_asr.lang.lang import Lang


@dataclass(frozen=True)
class Span:
    """A word or token and where it stands.

    Attributes:
        label: word or token symbol.
        begin: first frame (after subsampling).
        end: frame behind its last.
        confidence: mean posterior of its tokens' frames, 0 to 1.
    """

    label: str
    begin: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Alignment:
    """Words and tokens of one utterance in time.

    Attributes:
        words: one span for each word of the transcript.
        tokens: one span for each token, silence included, blanks not.
        path: token of each frame.
        score: log probability of the path.
    """

    words: list[Span]
    tokens: list[Span]
    path: list[int]
    score: float


def align_batch(
    log_probs: Tensor,
    lens: Tensor,
    texts: Sequence[str],
    lang: Lang,
    ids: Sequence[str] | None = None,
) -> list[Alignment]:
    """Align each utterance with its transcript.

    Args:
        log_probs: (N, T, V) float32.
        lens: (N,) int64 frames.
        texts: N transcripts.
        lang: lexicon with all pronunciations.
        ids: utterance ids for messages.

    Raises:
        DataError: NaN in the posteriors, or fewer frames than the transcript needs.
        LangError: a word without a pronunciation.
    """
    inputs = search_inputs(log_probs, lens, SearchOptions(), ids)
    names = (
        ids if ids is not None else [f"number {index} of the batch" for index in range(len(lens))]
    )
    return [
        align_utterance(scores, text, lang, name)
        for scores, text, name in zip(inputs, texts, names, strict=True)
    ]


def align_utterance(scores: np.ndarray, text: str, lang: Lang, name: str = "") -> Alignment:
    """Align one utterance; ``scores`` is (T, V) log probabilities, ``name`` its id in errors."""
    words = text.split()
    graph = pronunciation_graph(words, lang)
    if len(scores) < graph.min_frames:
        raise DataError(
            f"utterance {name}: {len(scores)} frames cannot carry {text!r}, which needs"
            f" {graph.min_frames}"
        )
    states, score = viterbi_states(scores, graph.arrays)
    token_of_state = np.zeros(graph.arrays.num_states, dtype=np.int64)
    token_of_state[graph.arrays.arcs["dst"]] = graph.arrays.arcs["ilabel"]
    path = token_of_state[states]
    chances = np.exp(scores[np.arange(len(path)), path])
    tokens = [
        Span(lang.tokens[path[begin]], begin, end, float(chances[begin:end].mean()))
        for begin, end in _runs(states)
        if path[begin]
    ]
    return Alignment(
        _words(words, graph.word_of_state[states], chances), tokens, path.tolist(), score
    )


def viterbi_states(scores: np.ndarray, graph: FstArrays) -> tuple[np.ndarray, float]:
    """Return the state entered at each frame on the best path, (T,), and the path's score.

    Args:
        scores: (T, V) log probabilities.
        graph: tokens as input labels, every arc a frame, no epsilons; some path has T frames.
    """
    # sorted by the state they enter, so that reduceat finds the best way into each at once
    order = np.argsort(graph.arcs["dst"], kind="stable")
    dst, src = graph.arcs["dst"][order], graph.src[order]
    label = graph.arcs["ilabel"][order]
    weight = -graph.arcs["weight"][order].astype(np.float64)
    entered, begins = np.unique(dst, return_index=True)
    best = np.full(graph.num_states, -np.inf)
    best[graph.start] = 0.0
    back = np.zeros((len(scores), graph.num_states), dtype=np.int32)
    # float64, since the sum runs over thousands of frames
    for frame, row in enumerate(scores.astype(np.float64)):
        ways = best[src] + weight + row[label]  # (E,)
        best = np.full(graph.num_states, -np.inf)
        best[entered] = np.maximum.reduceat(ways, begins)
        winner = np.flatnonzero(ways == best[dst])[::-1]  # of equal ways the first
        back[frame, dst[winner]] = src[winner]
    ends = best - graph.final
    state = int(ends.argmax())
    path = np.empty(len(scores), dtype=np.int64)
    for frame in range(len(scores) - 1, -1, -1):
        path[frame] = state
        state = int(back[frame, state])
    return path, float(ends.max())


def viterbi_alignment(scores: np.ndarray, tokens: Sequence[int]) -> tuple[list[int], float]:
    """Return the token of each frame on the best path of ``tokens``, and the path's score.

    All states of a frame are updated at once over the blank-interleaved token sequence of
    Graves et al. (2006).

    Args:
        scores: (T, V) log probabilities.
        tokens: token ids without blank.

    Raises:
        DataError: fewer frames than tokens and adjacent repeats need.
    """
    labels = np.zeros(2 * len(tokens) + 1, dtype=np.int64)
    labels[1::2] = tokens
    skip = np.zeros(len(labels), dtype=bool)
    # between two equal tokens the blank must stay, or they would merge into one
    skip[3::2] = labels[3::2] != labels[1:-2:2]
    best = np.full(len(labels) + 2, -np.inf)  # two cells of padding before the states
    best[2] = 0.0
    # steps back of 0 to 2 states: one byte a cell, since long audio has many
    back = np.zeros((len(scores), len(labels)), dtype=np.int8)
    for frame, emission in enumerate(scores[:, labels].astype(np.float64)):
        ways = np.stack([best[2:], best[1:-1], np.where(skip, best[:-2], -np.inf)])
        back[frame] = ways.argmax(axis=0)
        best[2:] = ways.max(axis=0) + emission
    state = len(labels) - 1
    # a path may end in the last token or in the blank after it
    if len(tokens) and best[state + 1] > best[state + 2]:
        state -= 1
    score = float(best[2 + state])
    # no alignment: there are too few frames even without blanks
    if np.isneginf(score):
        raise DataError(f"{len(scores)} frames cannot carry {len(tokens)} tokens and their repeats")
    path = []
    for frame in range(len(scores) - 1, -1, -1):
        path.append(int(labels[state]))
        state -= int(back[frame, state])
    return path[::-1], score


def _runs(states: np.ndarray) -> list[tuple[int, int]]:
    """First and end frame of each run of one state."""
    cuts = np.flatnonzero(np.diff(states)) + 1
    bounds = [0, *cuts.tolist(), len(states)]
    return [(b, e) for b, e in itertools.pairwise(bounds) if b < e]


def _words(words: list[str], word_at: np.ndarray, chances: np.ndarray) -> list[Span]:
    spans = []
    for index, word in enumerate(words):
        frames = np.flatnonzero(word_at == index)
        begin, end = int(frames[0]), int(frames[-1]) + 1
        spans.append(Span(word, begin, end, float(chances[frames].mean())))
    return spans
