"""Graphs of transcripts for training: CTC over every pronunciation of every word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lmu_asr.errors import LangError
from lmu_asr.fsa.arrays import FstArrays, make_arrays
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.lexicon import SILENCE


@dataclass(frozen=True)
class TrainingGraph:
    """CTC over all pronunciations of a transcript.

    Attributes:
        arrays: the graph with tokens as labels (0 is the blank); all arcs into a state carry the
            same token, and every arc is a frame.
        min_frames: the fewest frames of a path.
        word_of_state: (S,) index in the transcript of the word that a state belongs to, -1: none.
    """

    arrays: FstArrays
    min_frames: int
    word_of_state: np.ndarray


@dataclass(frozen=True)
class _Front:
    """Where the next token may come from: blank states, and states of tokens with their token."""

    blanks: tuple[int, ...]
    tokens: tuple[tuple[int, int], ...] = ()


@dataclass
class _Builder:
    arcs: list[tuple[int, int, int]] = field(default_factory=list)  # (src, dst, token)
    words: list[int] = field(default_factory=list)  # of each state
    word: int = -1  # that new token states belong to

    def blank(self, tokens: Sequence[tuple[int, int]] = ()) -> int:
        """Add a state that takes blanks, entered from ``tokens`` by a blank."""
        return self._state(0, [state for state, _ in tokens])

    def token(self, token: int, front: _Front) -> int:
        """Add a state that repeats ``token``; an equal token before it needs a blank between."""
        others = [state for state, other in front.tokens if other != token]
        return self._state(token, [*front.blanks, *others])

    def chain(self, pron: Sequence[int], front: _Front) -> tuple[int, int]:
        """Add the tokens of one pronunciation; return the last state and its token."""
        last = (self.token(pron[0], front), pron[0])
        for token in pron[1:]:
            last = (self.token(token, _Front((self.blank([last]),), (last,))), token)
        return last

    def _state(self, label: int, sources: Sequence[int]) -> int:
        state = len(self.words)
        self.words.append(self.word if label else -1)
        self.arcs += [(source, state, label) for source in (*sources, state)]
        return state


def pronunciation_graph(words: Sequence[str], lang: Lang) -> TrainingGraph:
    """Build the CTC graph of a transcript over all pronunciations of its words.

    Between words, optional silence is allowed where ``lang`` has a silence token.

    Raises:
        LangError: a word without a pronunciation.
    """
    builder = _Builder()
    front = _Front((builder.blank(),))
    silence = lang.token_ids.get(SILENCE)
    for index, word in enumerate(words):
        front = _with_silence(builder, front, silence)
        builder.word = index
        ends = tuple(builder.chain(pron, front) for pron in _pronunciations(word, lang))
        builder.word = -1
        front = _Front((builder.blank(ends),), ends)
    front = _with_silence(builder, front, silence)
    final = [float("inf")] * len(builder.words)
    for state in (*front.blanks, *(state for state, _ in front.tokens)):
        final[state] = 0.0
    src, dst, label = zip(*builder.arcs, strict=True)
    arrays = make_arrays(src, label, label, 0.0, dst, final)
    return TrainingGraph(arrays, _fewest_frames(builder, final), np.array(builder.words))


def _with_silence(builder: _Builder, front: _Front, silence: int | None) -> _Front:
    if silence is None:
        return front
    quiet = (builder.token(silence, front), silence)
    return _Front((*front.blanks, builder.blank([quiet])), (*front.tokens, quiet))


def _pronunciations(word: str, lang: Lang) -> list[tuple[int, ...]]:
    prons = lang.pronunciations.get(word)
    if not prons:
        raise LangError(f"word {word!r} has no pronunciation in {lang.dir}/lexicon.txt")
    # the loss sums over paths: a pronunciation given twice would count twice
    return list(dict.fromkeys(tuple(lang.token_ids[token] for token in pron) for pron in prons))


def _fewest_frames(builder: _Builder, final: list[float]) -> int:
    """Breadth-first search: every arc is a frame. States are numbered before their successors."""
    reached, frames = {0}, 0
    while not any(final[state] == 0.0 for state in reached):
        reached = {dst for src, dst, _ in builder.arcs if src in reached and dst not in reached}
        frames += 1
    return frames
