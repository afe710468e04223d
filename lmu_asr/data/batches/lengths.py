"""Lengths of the training utterances: frames of all, tokens of all or of a telling part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmu_asr.data.batches.index import Index
from lmu_asr.data.batches.sampler import CutRecord, Keep

GROUPS = 32  # of an index, by length
LONGEST_TEXTS, DRAWN = 100, 300  # utterances of each group whose tokens are counted
CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Lengths:
    """What there is to train on.

    Attributes:
        frames: (num_utterances,) frames of features.
        counted: (num_counted,) numbers of the utterances whose tokens were counted.
        tokens: (num_counted,) their tokens.
    """

    frames: NDArray[np.int64]
    counted: NDArray[np.int64]
    tokens: NDArray[np.int64]


def lengths_of(utterances: Sequence[CutRecord], count_tokens: CountTokens) -> Lengths:
    """Count every utterance."""
    frames = np.array([u.num_frames for u in utterances], dtype=np.int64)
    tokens = np.array([count_tokens(u.text) for u in utterances], dtype=np.int64)
    return Lengths(frames, np.arange(len(frames)), tokens)


def lengths_of_index(index: Index, keep: Keep | None, count_tokens: CountTokens) -> Lengths:
    """Frames of all utterances; tokens of those with the longest texts of their length, and a draw.

    Millions of texts would take minutes to encode. Of each of ``GROUPS`` groups of similar length
    the ``LONGEST_TEXTS`` longest records and ``DRAWN`` others are counted; those that ``keep``
    leaves out are not.
    """
    frames = np.asarray(index.frames, dtype=np.int64)
    rng = np.random.default_rng(0)
    chosen = [
        _telling(group, index.record_bytes[group], rng)
        for group in np.array_split(np.argsort(frames, kind="stable"), GROUPS)
    ]
    numbers = [int(number) for number in np.concatenate(chosen)]
    read = ((number, index[number]) for number in numbers)
    kept = [(number, u) for number, u in read if keep is None or keep(u) is None]
    tokens = np.array([count_tokens(u.text) for _, u in kept], dtype=np.int64)
    return Lengths(frames, np.array([number for number, _ in kept], dtype=np.int64), tokens)


def _telling(
    group: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Numbers of a group with the largest records, and some others."""
    drawn = rng.permutation(group)[:DRAWN]
    longest = group[np.argsort(sizes, kind="stable")[-LONGEST_TEXTS:]]
    return np.unique(np.concatenate([longest, drawn]))
