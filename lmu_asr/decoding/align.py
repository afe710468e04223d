"""Forced alignment: the best path of known tokens through CTC posteriors (Viterbi)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmu_asr.errors import DataError


def viterbi_alignment(scores: np.ndarray, tokens: Sequence[int]) -> tuple[list[int], float]:
    """Return the token of each frame on the best path of ``tokens``, and the path's score.

    All states of a frame are updated at once over the blank-interleaved token sequence of
    Graves et al. (2006).

    Args:
        scores: (T, V) log probabilities.
        tokens: S token ids without blank.

    Raises:
        DataError: fewer frames than tokens and adjacent repeats need.
    """
    labels = np.zeros(2 * len(tokens) + 1, dtype=np.int64)
    labels[1::2] = tokens
    skip = np.zeros(len(labels), dtype=bool)
    skip[3::2] = labels[3::2] != labels[1:-2:2]
    emitted = scores[:, labels].astype(np.float64)  # (T, 2 S + 1)
    best = np.full(len(labels) + 2, -np.inf)  # two cells of padding before the states
    best[2] = 0.0
    back = np.zeros((len(scores), len(labels)), dtype=np.int8)
    for frame, emission in enumerate(emitted):
        ways = np.stack([best[2:], best[1:-1], np.where(skip, best[:-2], -np.inf)])
        back[frame] = ways.argmax(axis=0)
        best[2:] = ways.max(axis=0) + emission
    state = len(labels) - 1
    if len(tokens) and best[state + 1] > best[state + 2]:
        state -= 1
    score = float(best[2 + state])
    if np.isneginf(score):
        raise DataError(f"{len(scores)} frames cannot carry {len(tokens)} tokens and their repeats")
    path = []
    for frame in range(len(scores) - 1, -1, -1):
        path.append(int(labels[state]))
        state -= int(back[frame, state])
    return path[::-1], score
