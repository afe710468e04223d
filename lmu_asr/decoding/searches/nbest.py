"""N-best lists: the choice with the least expected word error, and the error of an oracle."""

from __future__ import annotations

from collections.abc import Sequence

import kaldialign
import numpy as np

from lmu_asr.fsa.lattice import Lattice, Path

NEGLIGIBLE = 1e-4  # weight of a path that the expected error does without


def scores_of(paths: Sequence[Path], acoustic_scale: float, lm_scale: float) -> np.ndarray:
    """(n,) scaled scores of paths."""
    am = np.array([path.am_score for path in paths])
    lm = np.array([path.lm_score for path in paths])
    return np.asarray(acoustic_scale * am + lm_scale * lm)


def least_expected_error(paths: Sequence[Path], scores: np.ndarray) -> int:
    """Index of the path with the least expected edit distance to the others (Stolcke et al. 1997).

    Args:
        paths: n distinct word sequences.
        scores: (n,) log probabilities up to a constant; they weigh the paths.

    Of equal expectations the higher score wins.
    """
    # less the largest, so that exp of large negative scores does not give 0 throughout
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    heavy = np.flatnonzero(weights > NEGLIGIBLE)
    expected = np.array(
        [
            sum(
                weights[j] * word_distance(one.words, paths[j].words)
                for j in map(int, heavy)
                if j != i
            )
            for i, one in enumerate(paths)
        ]
    )
    # the last key counts first; rounded, so that errors of float sums do not decide ties
    order = np.lexsort((-scores, np.round(expected, 9)))
    return int(order[0])


def word_distance(one: Sequence[int] | Sequence[str], other: Sequence[int] | Sequence[str]) -> int:
    """Edit distance: substitutions, insertions and deletions cost one each."""
    return int(kaldialign.edit_distance(list(one), list(other))["total"])


def oracle_errors(hypotheses: Sequence[Sequence[str]], reference: Sequence[str]) -> int:
    """Edit distance of the hypothesis nearest to ``reference``; its length if there is none."""
    distances = [word_distance(words, reference) for words in hypotheses]
    return min(distances, default=len(reference))


def lattice_oracle_errors(lattice: Lattice, reference: Sequence[int]) -> int:
    """Edit distance between ``reference`` (word ids) and the nearest path of a lattice, exactly.

    Dynamic programming over (state, words of the reference consumed), all words at once.
    """
    ref = np.asarray(reference, dtype=np.int64)
    size = len(ref) + 1
    best = np.full((lattice.num_states, size), np.inf)
    best[0, 0] = 0.0
    offsets = lattice.arc_offsets
    # states are in topological order, so a row is complete when its turn comes
    for state in range(lattice.num_states):
        row = np.minimum.accumulate(best[state] - np.arange(size)) + np.arange(size)  # deletions
        best[state] = row
        for arc in range(offsets[state], offsets[state + 1]):
            target = best[lattice.dst[arc]]
            word = lattice.word[arc]
            # an epsilon arc consumes no word on either side
            if word == 0:
                np.minimum(target, row, out=target)
                continue
            np.minimum(target, row + 1, out=target)  # insertion
            np.minimum(target[1:], row[:-1] + (ref != word), out=target[1:])
    ends = best[~np.isneginf(lattice.final), -1]
    return int(ends.min()) if len(ends) else len(ref)
