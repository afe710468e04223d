"""Hypotheses: words, tokens, their frames and spans, from a path through a graph or greedily.

Shapes: T frames, V vocabulary. Scores are log probabilities, base e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.lattice import Path
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.lexicon import SILENCE


@dataclass
class Hypothesis:
    """What a search found for one utterance.

    Attributes:
        words: recognised words.
        tokens: token ids, blanks and repeats removed.
        times: first frame (after subsampling, from 0) of each token.
        score: ``acoustic_scale * am_score + lm_scale * lm_score``, what the search maximised.
        am_score: unscaled log probability of the path in the posteriors.
        lm_score: unscaled log probability of the path in the graph.
        alignment: token of each frame, blanks and repeats included; T of them.
        word_spans: first frame and end frame (exclusive) of each word; empty where unknown.
        confidences: posterior of each word in the lattice, 0 to 1; empty where no lattice was made.
        fallback: the search found no path and this is the greedy result.
    """

    words: list[str]
    tokens: list[int]
    times: list[float]
    score: float
    am_score: float = 0.0
    lm_score: float = 0.0
    alignment: list[int] = field(default_factory=list)
    word_spans: list[tuple[int, int]] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    fallback: bool = False


def collapse(alignment: Sequence[int]) -> tuple[list[int], list[float]]:
    """Remove repeats, then blanks (0): return the tokens and the first frame of each."""
    path = np.asarray(alignment, dtype=np.int64)
    starts = np.flatnonzero((path != 0) & np.concatenate([[True], path[1:] != path[:-1]]))
    return path[starts].tolist(), starts.astype(float).tolist()


def greedy_hypothesis(scores: np.ndarray, lang: Lang, fallback: bool = False) -> Hypothesis:
    """Best token of each frame, collapsed. ``scores`` is (T, V)."""
    alignment = scores.argmax(axis=1)
    tokens, times = collapse(alignment) if len(alignment) else ([], [])
    am_score = float(scores.max(axis=1).astype(np.float64).sum()) if len(alignment) else 0.0
    return Hypothesis(
        words=lang.decode(tokens).split(),
        tokens=tokens,
        times=times,
        score=am_score,
        am_score=am_score,
        alignment=alignment.tolist(),
        fallback=fallback,
    )


def hypothesis_from_path(path: Path, graph: Graph, options: SearchOptions) -> Hypothesis:
    """Build the hypothesis of ``path``, found in ``graph`` under the scales of ``options``."""
    tokens, times = collapse(path.alignment)
    if graph.kind == "H":
        words = graph.lang.decode(path.words).split()
    else:
        words = [graph.lang.words[word] for word in path.words]
    return Hypothesis(
        words=words,
        tokens=tokens,
        times=times,
        score=options.acoustic_scale * path.am_score + options.lm_scale * path.lm_score,
        am_score=path.am_score,
        lm_score=path.lm_score,
        alignment=list(path.alignment),
        word_spans=word_spans(words, tokens, path.alignment, graph.lang),
    )


def word_spans(
    words: list[str], tokens: list[int], alignment: tuple[int, ...] | list[int], lang: Lang
) -> list[tuple[int, int]]:
    """First frame and end frame (exclusive) of each word, from the frames of its tokens.

    Tokens are shared out to words by matching pronunciations in order; tokens that belong to no
    word (optional silence) are passed over. Empty where the tokens do not spell the words.
    """
    runs = _runs(alignment)
    cuts = _segment(words, tokens, lang)
    if cuts is None or len(runs) != len(tokens):
        return []
    return [(runs[begin][0], runs[end - 1][1]) for begin, end in cuts]


def _runs(alignment: tuple[int, ...] | list[int]) -> list[tuple[int, int]]:
    """First and end frame of each run of one non-blank token."""
    runs: list[tuple[int, int]] = []
    previous = 0
    for frame, token in enumerate(alignment):
        if token and token == previous:
            runs[-1] = (runs[-1][0], frame + 1)
        elif token:
            runs.append((frame, frame + 1))
        previous = token
    return runs


def _segment(words: list[str], tokens: list[int], lang: Lang) -> list[tuple[int, int]] | None:
    """Token range of each word; None where there is no way to spell ``words`` by ``tokens``."""
    silence = lang.token_ids.get(SILENCE, -1)
    ends: list[dict[int, int]] = [{0: 0}]  # after each word: end -> begin of that word
    for word in words:
        reached: dict[int, int] = {}
        for before in ends[-1]:
            begins = [before]
            if before < len(tokens) and tokens[before] == silence:
                begins.append(before + 1)
            for begin in begins:
                for pron in lang.pronunciations.get(word, ()):
                    end = begin + len(pron)
                    if tokens[begin:end] == [lang.token_ids[t] for t in pron]:
                        reached.setdefault(end, begin)
        ends.append(reached)
    tail = [e for e in ends[-1] if all(token == silence for token in tokens[e:])]
    if not tail:
        return None
    cuts: list[tuple[int, int]] = []
    end = tail[0]
    for reached in reversed(ends[1:]):
        begin = reached[end]
        cuts.append((begin, end))
        # where no word ends at this one's begin, a silence token lies between
        end = begin if begin in ends[len(words) - len(cuts)] else begin - 1
    return cuts[::-1]
