"""Resampling: exact small cases, kaldialign as the second opinion, coverage of the interval."""

from __future__ import annotations

import math
from itertools import product

import kaldialign
import numpy as np
import pytest

from lmu_asr.errors import DataError
from lmu_asr.scoring import significance
from lmu_asr.scoring.significance import (
    bootstrap_interval,
    paired_p_value,
)


def test_interval_equals_exact_enumeration() -> None:
    errors, lengths = [0, 1, 4], [3, 5, 6]
    rates = 1000 * [
        100 * sum(errors[i] for i in draw) / sum(lengths[i] for i in draw)
        for draw in product(range(3), repeat=3)
    ]
    low, high = bootstrap_interval(errors, lengths, resamplings=20000)
    assert low == pytest.approx(np.percentile(rates, 2.5), abs=1e-9)
    assert high == pytest.approx(np.percentile(rates, 97.5), abs=1e-9)


def test_interval_agrees_with_kaldialign() -> None:
    rng = np.random.default_rng(0)
    refs = [["a"] * 10 for _ in range(400)]
    hyps = [["a" if ok else "b" for ok in rng.random(10) > 0.15] for _ in range(400)]
    wrong = [sum(word == "b" for word in hyp) for hyp in hyps]
    theirs = kaldialign.bootstrap_wer_ci(refs, hyps, replications=5000)
    low, high = bootstrap_interval(wrong, [10] * 400, 5000)
    assert low == pytest.approx(100 * theirs["ci95min"], abs=0.15)
    assert high == pytest.approx(100 * theirs["ci95max"], abs=0.15)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        errors = rng.binomial(10, 0.2, size=100)
        low, high = bootstrap_interval(errors.tolist(), [10] * 100, 400, seed=trial)
        covered += low <= 20.0 <= high
    assert 180 <= covered <= 198  # 95 % of 200, within four standard deviations


def test_interval_without_any_reference_is_undefined() -> None:
    assert all(math.isnan(bound) for bound in bootstrap_interval([2], [0]))


def test_interval_never_leaves_the_possible_range() -> None:
    low, high = bootstrap_interval([0, 0, 1], [9, 9, 9])
    assert low == 0.0
    assert high <= 100 / 9


def test_identical_systems_have_p_one() -> None:
    assert paired_p_value([1, 2, 0], [1, 2, 0]) == 1.0


def test_p_value_by_hand() -> None:
    # every draw of 4 utterances sums to 0 only if it avoids the one that differs: (3/4)**4
    share = (3 / 4) ** 4
    p = paired_p_value([0, 0, 0, 0], [1, 0, 0, 0], resamplings=40000)
    assert p == pytest.approx(2 * share, abs=0.02)


def test_p_value_is_symmetric_and_never_zero() -> None:
    better, worse = [0] * 50, [1] * 50
    assert paired_p_value(better, worse, 999) == paired_p_value(worse, better, 999) == 0.002


def test_no_difference_is_rarely_called_significant() -> None:
    rng = np.random.default_rng(3)
    found = 0
    for trial in range(200):
        first, second = rng.binomial(8, 0.2, size=(2, 80))
        found += paired_p_value(first.tolist(), second.tolist(), 400, seed=trial) < 0.05
    assert found <= 25  # 5 % of 200 is 10; four standard deviations above is 22


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, lengths = list(range(30)), [40] * 30
    whole = bootstrap_interval(errors, lengths, 500, seed=7)
    monkeypatch.setattr(significance, "BLOCK_ELEMENTS", 30 * 7)
    assert bootstrap_interval(errors, lengths, 500, seed=7) == whole


def test_bad_input() -> None:
    with pytest.raises(DataError, match="differ in length: 1 and 2"):
        paired_p_value([1], [1, 2])
    with pytest.raises(DataError, match="nothing to compare"):
        paired_p_value([], [])
