"""Confidence intervals and paired significance by resampling whole utterances.

Bisani and Ney (2004), "Bootstrap estimates for confidence intervals in ASR performance evaluation":
utterances are drawn with replacement, and the error rate of each draw is total errors over total
reference length. The interval holds the middle 95 % of those rates, so it never leaves [0, inf).

Shapes: N utterances, R resamplings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lmu_asr.errors import DataError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BLOCK_ELEMENTS = 1 << 22


def bootstrap_interval(
    errors: Sequence[int],
    lengths: Sequence[int],
    resamplings: int = 2000,
    seed: int = 42,
) -> tuple[float, float]:
    """Return the 95 % interval of the error rate, in per cent.

    Args:
        errors: errors of each utterance, (N,).
        lengths: reference length of each utterance, (N,).
        resamplings: number of draws R; the standard error of each bound falls as 1/sqrt(R).
        seed: seed of the draws; the same seed gives the same interval.

    Returns:
        Lower and upper bound; (nan, nan) where there is no reference at all.
    """
    _check_same_length(errors, lengths)
    if not sum(lengths):
        return math.nan, math.nan
    pair = np.asarray([errors, lengths], dtype=np.int64)
    drawn = _resample(pair, resamplings, seed)  # (R, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = drawn[:, 0] / drawn[:, 1]  # (R,)
    low, high = np.percentile(rates[np.isfinite(rates)], [2.5, 97.5])
    return 100.0 * float(low), 100.0 * float(high)


def paired_p_value(
    errors: Sequence[int],
    baseline_errors: Sequence[int],
    resamplings: int = 2000,
    seed: int = 42,
) -> float:
    """Return the two-sided p-value of "both systems make equally many errors".

    Both sequences count the errors on the same N utterances in the same order. Each draw sums the
    differences; p is twice the share of draws on the less frequent side of zero, counting the
    observed sample as one more draw, so that p is never 0 and is 1 for identical systems.

    Raises:
        DataError: the sequences differ in length, or are empty.
    """
    _check_same_length(errors, baseline_errors)
    if not len(errors):
        raise DataError("no utterances in common: nothing to compare")
    difference = np.asarray([errors], dtype=np.int64) - np.asarray([baseline_errors])  # (1, N)
    sums = _resample(difference, resamplings, seed)[:, 0]  # (R,)
    not_better = int(np.count_nonzero(sums >= 0)) + 1
    not_worse = int(np.count_nonzero(sums <= 0)) + 1
    return min(1.0, 2.0 * min(not_better, not_worse) / (resamplings + 1))


def _resample(values: IntArray, resamplings: int, seed: int) -> FloatArray:
    """Sum each row of ``values`` (K, N) over R draws of N columns: (R, K)."""
    blocks = [
        counts @ values.T.astype(np.float64)  # (r, N) @ (N, K)
        for counts in _draw_counts(values.shape[1], resamplings, seed)
    ]
    return np.concatenate(blocks)


def _draw_counts(n: int, resamplings: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each of ``n`` utterances is drawn, (r, N) at a time to bound the memory."""
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, BLOCK_ELEMENTS // max(n, 1))
    for start in range(0, resamplings, rows):
        size = min(rows, resamplings - start)
        draws = generator.integers(0, n, size=(size, n))
        offsets = np.arange(size)[:, None] * n
        counts = np.bincount((draws + offsets).ravel(), minlength=size * n)
        yield counts.reshape(size, n).astype(np.float64)


def _check_same_length(first: Sequence[int], second: Sequence[int]) -> None:
    if len(first) != len(second):
        raise DataError(f"paired sequences differ in length: {len(first)} and {len(second)}")
