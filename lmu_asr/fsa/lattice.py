"""Lattices: the paths that a search kept, the same structure whichever engine made them.

Legend: S states, E arcs, T frames. Scores are log probabilities, base e, float64.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmu_asr.errors import GraphError


@dataclass(frozen=True)
class Path:
    """One path through a lattice.

    Attributes:
        words: word ids (token ids where the graph is H).
        word_frames: frame at which each word's label stands on the path.
        alignment: token of each frame, T of them.
        am_score: unscaled acoustic log probability.
        lm_score: unscaled graph log probability.
    """

    words: tuple[int, ...]
    word_frames: tuple[int, ...]
    alignment: tuple[int, ...]
    am_score: float
    lm_score: float


@dataclass(frozen=True)
class Lattice:
    """An acyclic graph of scored arcs; every arc with a token takes one frame.

    Attributes:
        src, dst: (E,) int32 states, numbered topologically, ``src`` ascending.
        token: (E,) int32; -1 is epsilon, 0 blank.
        word: (E,) int32; 0 is epsilon.
        am, lm: (E,) unscaled scores of posteriors and graph.
        final: (S,) graph score of ending in a state, -infinity where it is not final.
        frame: (S,) int32 frames consumed before a state.
        acoustic_scale, lm_scale: factors with which the search added the two scores.
    """

    src: np.ndarray
    dst: np.ndarray
    token: np.ndarray
    word: np.ndarray
    am: np.ndarray
    lm: np.ndarray
    final: np.ndarray
    frame: np.ndarray
    acoustic_scale: float = 1.0
    lm_scale: float = 1.0

    @cached_property
    def scores(self) -> np.ndarray:
        """(E,) scaled score of each arc."""
        return self.acoustic_scale * self.am + self.lm_scale * self.lm

    @cached_property
    def final_scores(self) -> np.ndarray:
        """(S,) scaled score of ending in each state."""
        return np.where(np.isneginf(self.final), -np.inf, self.lm_scale * self.final)

    @property
    def num_states(self) -> int:
        """Number of states."""
        return len(self.final)

    @property
    def num_arcs(self) -> int:
        """Number of arcs."""
        return len(self.src)

    @cached_property
    def arc_offsets(self) -> np.ndarray:
        """(S + 1,) first arc of each state."""
        return np.searchsorted(self.src, np.arange(self.num_states + 1))

    @cached_property
    def backward_best(self) -> np.ndarray:
        """(S,) best score from each state to the end."""
        return self._backward(np.maximum)

    def forward(self) -> np.ndarray:
        """(S,) log sum of the scores of all paths from the start to each state."""
        alpha = np.full(self.num_states, -np.inf)
        alpha[0] = 0.0
        for arcs in self._arc_levels:
            # plain indexing would keep only the last of several arcs into one state
            np.logaddexp.at(alpha, self.dst[arcs], alpha[self.src[arcs]] + self.scores[arcs])
        return alpha

    def backward(self) -> np.ndarray:
        """(S,) log sum of the scores of all paths from each state to the end."""
        return self._backward(np.logaddexp)

    def posteriors(self) -> np.ndarray:
        """(E,) posterior probability of each arc, by the forward-backward algorithm."""
        alpha, beta = self.forward(), self.backward()
        return np.exp(alpha[self.src] + self.scores + beta[self.dst] - beta[0])

    def pruned(self, beam: float) -> Lattice:
        """Drop arcs on no path within ``beam`` (scaled score) of the best, and states left bare."""
        beta = self.backward_best
        alpha = np.full(self.num_states, -np.inf)
        alpha[0] = 0.0
        for arcs in self._arc_levels:
            np.maximum.at(alpha, self.dst[arcs], alpha[self.src[arcs]] + self.scores[arcs])
        through = alpha[self.src] + self.scores + beta[self.dst]
        keep = through >= beta[0] - beam
        used = np.zeros(self.num_states, dtype=bool)
        used[0] = True
        used[self.src[keep]] = used[self.dst[keep]] = True
        new = np.cumsum(used) - 1
        final = np.where(alpha + self.final_scores >= beta[0] - beam, self.final, -np.inf)
        return Lattice(
            new[self.src[keep]].astype(np.int32), new[self.dst[keep]].astype(np.int32),
            self.token[keep], self.word[keep], self.am[keep], self.lm[keep], final[used],
            self.frame[used], self.acoustic_scale, self.lm_scale,
        )  # fmt: skip

    def best_path(self) -> Path:
        """Return the path with the highest scaled score.

        Raises:
            GraphError: the lattice has no path.
        """
        return next(self.paths())

    def nbest(self, count: int) -> list[Path]:
        """Return up to ``count`` paths with distinct words, best first, each with its best alignment."""
        return list(itertools.islice(self.paths(), count))

    def paths(self) -> Iterator[Path]:
        """Iterate over paths with distinct words, best first (A* with exact completion scores).

        A state that was reached twice with the same words is followed once: the better way is
        popped first, and what follows is the same.

        Raises:
            GraphError: the lattice has no path.
        """
        if not self.num_states or np.isneginf(self.backward_best[0]):
            raise GraphError("the lattice has no path")
        beta, final = self.backward_best.tolist(), self.final_scores.tolist()
        dst, word, cost = self.dst.tolist(), self.word.tolist(), self.scores.tolist()
        offsets = self.arc_offsets.tolist()
        steps: list[tuple[int, int]] = [(-1, -1)]  # (arc, previous step)
        # (-bound, step, state, score, words): equal bounds come in the order of their steps
        heap: list[tuple[float, int, int, float, tuple[int, ...]]] = [(-beta[0], 0, 0, 0.0, ())]
        seen: set[tuple[int, tuple[int, ...]]] = set()
        while heap:
            _, step, state, score, words = heapq.heappop(heap)
            if (state, words) in seen:
                continue
            seen.add((state, words))
            if state < 0:
                yield self._trace(steps, step)
                continue
            if final[state] > -math.inf:
                steps.append((-1, step))
                # state -1 is the end: a path comes out only once no open one can be better
                heapq.heappush(heap, (-score - final[state], len(steps) - 1, -1, 0.0, words))
            for arc in range(offsets[state], offsets[state + 1]):
                reached = score + cost[arc]
                bound = reached + beta[dst[arc]]
                if bound > -math.inf:
                    steps.append((arc, step))
                    after = (*words, word[arc]) if word[arc] else words
                    heapq.heappush(heap, (-bound, len(steps) - 1, dst[arc], reached, after))

    @cached_property
    def levels(self) -> list[tuple[int, int]]:
        """Ranges of states, topologically: no arc joins two states of one range."""
        depth = _depths(self.src, self.dst, self.token < 0, self.frame)
        change = np.diff(self.frame).astype(bool) | np.diff(depth).astype(bool)
        bounds = [0, *(np.flatnonzero(change) + 1).tolist(), self.num_states]
        return list(itertools.pairwise(bounds)) if self.num_states else []

    @cached_property
    def _arc_levels(self) -> list[slice]:
        """Arcs that leave each range of states, without the empty ones."""
        offsets = self.arc_offsets
        cuts = [(int(offsets[begin]), int(offsets[end])) for begin, end in self.levels]
        return [slice(begin, end) for begin, end in cuts if begin < end]

    def confidences(self, path: Path) -> list[float]:
        """Posterior of each word of ``path``, 0 to 1.

        A word's posterior is the sum over all arcs with its label whose frame lies nearer to it
        than to the words before and behind it on the path.
        """
        posteriors = self.posteriors()
        frames = np.asarray(path.word_frames, dtype=float)
        edges = np.concatenate([[-np.inf], (frames[1:] + frames[:-1]) / 2, [np.inf]])
        at = self.frame[self.src]
        out = []
        for index, word in enumerate(path.words):
            # equal frames share an edge: "<=" on the right keeps a word's own arc inside
            inside = (at >= min(edges[index], frames[index])) & (
                at <= max(edges[index + 1], frames[index])
            )
            total = posteriors[inside & (self.word == word)].sum()
            out.append(float(min(total, 1.0)))
        return out

    def _backward(self, plus: np.ufunc) -> np.ndarray:
        beta = self.final_scores.copy()
        for arcs in reversed(self._arc_levels):
            plus.at(beta, self.src[arcs], self.scores[arcs] + beta[self.dst[arcs]])
        return beta

    def _trace(self, steps: list[tuple[int, int]], step: int) -> Path:
        arcs: list[int] = []
        while step > 0:
            arc, step = steps[step]
            if arc >= 0:
                arcs.append(arc)
        return self._path(np.asarray(arcs[::-1], dtype=np.int64))

    def _path(self, arcs: np.ndarray) -> Path:
        end = int(self.dst[arcs[-1]]) if len(arcs) else 0
        worded = arcs[self.word[arcs] != 0]
        taken = self.token[arcs]
        return Path(
            words=tuple(self.word[worded].tolist()),
            word_frames=tuple(self.frame[self.src[worded]].tolist()),
            alignment=tuple(taken[taken >= 0].tolist()),
            am_score=float(self.am[arcs].sum()),
            lm_score=float(self.lm[arcs].sum() + self.final[end]),
        )


def make_lattice(
    src: np.ndarray,
    dst: np.ndarray,
    token: np.ndarray,
    word: np.ndarray,
    am: np.ndarray,
    lm: np.ndarray,
    final: np.ndarray,
    acoustic_scale: float = 1.0,
    lm_scale: float = 1.0,
) -> Lattice:
    """Build a lattice from columns of arcs in any order; state 0 is the start.

    States are renumbered by frame and then by epsilon depth.

    Raises:
        GraphError: a state that two paths reach after different numbers of frames, or a cycle.
    """
    frame = _frames(src, dst, token, len(final))
    depth = _depths(src, dst, token < 0, frame)
    order = np.lexsort((depth, frame))
    order = np.concatenate([[0], order[order != 0]])
    new = np.empty_like(order)
    new[order] = np.arange(len(order))
    by_source = np.argsort(new[src], kind="stable")
    return Lattice(
        src=new[src][by_source].astype(np.int32),
        dst=new[dst][by_source].astype(np.int32),
        token=np.asarray(token, dtype=np.int32)[by_source],
        word=np.asarray(word, dtype=np.int32)[by_source],
        am=np.asarray(am, dtype=np.float64)[by_source],
        lm=np.asarray(lm, dtype=np.float64)[by_source],
        final=np.asarray(final, dtype=np.float64)[order],
        frame=frame[order].astype(np.int32),
        acoustic_scale=acoustic_scale,
        lm_scale=lm_scale,
    )


def _frames(src: np.ndarray, dst: np.ndarray, token: np.ndarray, num_states: int) -> np.ndarray:
    """(S,) frames before each state; unreachable states keep 0."""
    frame = np.full(num_states, -1, dtype=np.int64)
    if num_states:
        frame[0] = 0
    step = (token >= 0).astype(np.int64)
    waiting = np.arange(len(src))
    while len(waiting):
        ready = frame[src[waiting]] >= 0
        arcs = waiting[ready]
        if not len(arcs):
            break
        # of several arcs into one state the last one counts; the check below finds any that differ
        frame[dst[arcs]] = np.maximum(frame[dst[arcs]], frame[src[arcs]] + step[arcs])
        waiting = waiting[~ready]
    reached = frame[src] >= 0
    if (frame[dst][reached] != (frame[src] + step)[reached]).any():
        raise GraphError("lattice: two paths to one state take different numbers of frames")
    return np.maximum(frame, 0)


def _depths(src: np.ndarray, dst: np.ndarray, epsilon: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """(S,) longest chain of epsilon arcs that ends in each state."""
    depth = np.zeros(len(frame), dtype=np.int64)
    arcs = np.flatnonzero(epsilon)
    # a chain has fewer arcs than there are states: more rounds mean a cycle
    for _ in range(len(frame) + 1):
        before = depth.copy()
        np.maximum.at(depth, dst[arcs], depth[src[arcs]] + 1)
        if (before == depth).all():
            return depth
    raise GraphError("lattice: epsilon arcs form a cycle")
