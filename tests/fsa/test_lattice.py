"""Lattices worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.errors import GraphError
from lmu_asr.fsa.lattice import Lattice, make_lattice

NONE = -math.inf


def hand() -> Lattice:
    """Two frames. Words 1 or 2 in the first frame, then 3, or an epsilon word 4 and a blank.

    0 -t1:1/-1,-0.5-> 1 -t2:3/-1-> 3 (final -0.25)
    0 -t2:2/-2-> 1            1 -eps:4/,-0.5-> 2 -blank/-1.5-> 3
    """
    return make_lattice(
        src=np.array([0, 0, 1, 1, 2]),
        dst=np.array([1, 1, 3, 2, 3]),
        token=np.array([1, 2, 2, -1, 0]),
        word=np.array([1, 2, 3, 4, 0]),
        am=np.array([-1.0, -2.0, -1.0, 0.0, -1.5]),
        lm=np.array([-0.5, 0.0, 0.0, -0.5, 0.0]),
        final=np.array([NONE, NONE, NONE, -0.25]),
    )


def test_paths_come_best_first_with_their_two_scores() -> None:
    paths = hand().nbest(10)
    assert [p.words for p in paths] == [(1, 3), (2, 3), (1, 4), (2, 4)]
    assert [(p.am_score, p.lm_score) for p in paths] == [
        (-2.0, -0.75),
        (-3.0, -0.25),
        (-2.5, -1.25),
        (-3.5, -0.75),
    ]
    assert paths[2].alignment == (1, 0)
    assert paths[2].word_frames == (0, 1)
    assert hand().best_path() == paths[0]
    assert hand().nbest(2) == paths[:2]


def test_scales_reorder_the_paths() -> None:
    lattice = replace(hand(), lm_scale=10.0)
    assert lattice.best_path().words == (2, 3)


def test_forward_backward_by_hand() -> None:
    lattice = hand()
    paths = np.array([-2.75, -3.25, -3.75, -4.25])
    assert lattice.backward()[0] == pytest.approx(np.log(np.exp(paths).sum()))
    ending = lattice.final > NONE
    forward = (lattice.forward()[ending] + lattice.final[ending]).item()
    assert forward == pytest.approx(lattice.backward()[0])
    weights = np.exp(paths) / np.exp(paths).sum()
    columns = zip(lattice.word, lattice.token, lattice.posteriors(), strict=True)
    posteriors = {(word, token): p for word, token, p in columns}
    assert posteriors[1, 1] == pytest.approx(weights[0] + weights[2])
    assert posteriors[4, -1] == pytest.approx(weights[2] + weights[3])
    assert posteriors[0, 0] == pytest.approx(weights[2] + weights[3])


def test_confidences_are_posteriors_of_the_word_around_its_frame() -> None:
    lattice = hand()
    paths = np.exp([-2.75, -3.25, -3.75, -4.25])
    expected = [(paths[0] + paths[2]) / paths.sum(), (paths[0] + paths[1]) / paths.sum()]
    assert lattice.confidences(lattice.best_path()) == pytest.approx(expected)


def test_pruning_drops_what_lies_outside_the_beam() -> None:
    assert [p.words for p in hand().pruned(0.6).nbest(9)] == [(1, 3), (2, 3)]
    assert [p.words for p in hand().pruned(0.4).nbest(9)] == [(1, 3)]
    assert hand().pruned(99.0).num_arcs == 5
    assert hand().pruned(0.4).num_states == 3


def test_same_words_by_two_alignments_are_one_path() -> None:
    lattice = make_lattice(
        src=np.array([0, 0, 1, 2]),
        dst=np.array([1, 2, 3, 3]),
        token=np.array([1, 0, 0, 1]),
        word=np.array([5, 0, 0, 5]),
        am=np.array([-1.0, -3.0, -1.0, -1.0]),
        lm=np.zeros(4),
        final=np.array([NONE, NONE, NONE, 0.0]),
    )
    paths = lattice.nbest(5)
    assert [(p.words, p.am_score, p.alignment) for p in paths] == [((5,), -2.0, (1, 0))]


def test_lattice_without_path_is_refused() -> None:
    empty = make_lattice(*[np.zeros(0, dtype=int)] * 6, final=np.array([NONE]))
    with pytest.raises(GraphError, match="no path"):
        empty.best_path()


def test_uneven_frames_and_cycles_are_refused() -> None:
    zero = np.zeros(2)
    with pytest.raises(GraphError, match="different numbers of frames"):
        make_lattice(np.array([0, 0]), np.array([1, 1]), np.array([1, -1]), zero, zero, zero, zero)
    with pytest.raises(GraphError, match="cycle"):
        make_lattice(np.array([0, 1]), np.array([1, 0]), np.array([-1, -1]), zero, zero, zero, zero)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_random_lattices_against_all_their_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(1, 4))
    states = [(t, i) for t in range(frames + 1) for i in range(1 if t == 0 else 2)]
    arcs = [
        (a, b, int(rng.integers(0, 3)), int(rng.integers(0, 3)))
        for a, (t, _) in enumerate(states)
        for b, (u, _) in enumerate(states)
        if u == t + 1
        for _ in range(2)
    ]
    src, dst, token, word = (np.array(column) for column in zip(*arcs, strict=True))
    am, lm = rng.normal(size=(2, len(arcs)))
    final = np.array([0.0 if t == frames else NONE for t, _ in states])
    lattice = make_lattice(src, dst, token, word, am, lm, final, 0.7, 1.3)
    paths = [((), 0.0, 0)]
    for _ in range(frames):
        paths = [
            ((*words, w) if w else words, score + 0.7 * am[i] + 1.3 * lm[i], b)
            for words, score, state in paths
            for i, (a, b, _, w) in enumerate(arcs)
            if a == state
        ]
    best: dict[tuple[int, ...], float] = {}
    for words, score, _ in paths:
        best[words] = max(score, best.get(words, NONE))
    found = {p.words: 0.7 * p.am_score + 1.3 * p.lm_score for p in lattice.nbest(10**6)}
    assert found == pytest.approx(best)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    total = np.logaddexp.reduce([score for _, score, _ in paths])
    assert lattice.backward()[0] == pytest.approx(total)
    assert lattice.backward_best[0] == pytest.approx(max(best.values()))
    cut = float(rng.uniform(0.1, 3.0))
    kept = {p.words: 0.7 * p.am_score + 1.3 * p.lm_score for p in lattice.pruned(cut).nbest(10**6)}
    inside = {w: s for w, s in best.items() if s >= max(best.values()) - cut}
    assert inside.items() <= {w: best[w] for w in kept}.items()
