"""N-best lists: least expected error, oracles."""

import itertools

import numpy as np
import pytest

from lmu_asr.decoding.searches.nbest import (
    lattice_oracle_errors,
    least_expected_error,
    oracle_errors,
    scores_of,
)
from lmu_asr.fsa.lattice import Path, make_lattice


def path(words: tuple[int, ...], am: float = 0.0, lm: float = 0.0) -> Path:
    return Path(words, tuple(range(len(words))), (), am, lm)


def test_scores_combine_both_parts() -> None:
    paths = [path((1,), -2.0, -3.0), path((2,), -1.0, 0.0)]
    assert scores_of(paths, 2.0, 0.5).tolist() == [-5.5, -2.0]


def test_two_that_agree_outweigh_one_that_is_likelier() -> None:
    paths = [path((1, 2, 3)), path((4, 5, 6)), path((4, 5, 7))]
    scores = np.log([0.4, 0.35, 0.25])
    # expected errors: 3 * 0.6 | 3 * 0.4 + 1 * 0.25 | 3 * 0.4 + 1 * 0.35
    assert least_expected_error(paths, scores) == 1
    assert least_expected_error(paths, np.log([0.8, 0.1, 0.1])) == 0
    assert least_expected_error(paths[:1], scores[:1]) == 0


def test_equal_expectations_take_the_better_score() -> None:
    assert least_expected_error([path((1,)), path((2,))], np.array([-1.0, -1.0])) == 0


def test_oracle_of_lists() -> None:
    lists = [["a", "b"], ["a", "c", "d"]]
    assert oracle_errors(lists, ["a", "c", "d"]) == 0
    assert oracle_errors(lists, ["a", "b", "d"]) == 1
    assert oracle_errors([], ["a", "b", "d"]) == 3


@pytest.mark.parametrize("seed", range(20))
def test_oracle_of_a_lattice_is_that_of_all_its_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = 4
    arcs = [
        (2 * t + i if t else 0, 2 * (t + 1) + j, int(rng.integers(0, 4)))
        for t in range(layers)
        for i in range(2 if t else 1)
        for j in range(2)
    ]
    src, dst, word = (np.array(column) for column in zip(*arcs, strict=True))
    final = np.full(2 * layers + 2, -np.inf)
    final[-2:] = 0.0
    zero = np.zeros(len(src))
    lattice = make_lattice(src, dst, np.ones(len(src), dtype=int), word, zero, zero, final)
    hypotheses = [list(p.words) for p in lattice.nbest(10**6)]
    for reference in itertools.product(range(1, 4), repeat=int(rng.integers(0, 5))):
        expected = oracle_errors(hypotheses, list(reference))
        assert lattice_oracle_errors(lattice, reference) == expected
