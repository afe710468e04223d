"""Lexica: reading, disambiguation symbols, and L against enumeration."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.lang.lexicon import (
    Entry,
    SilenceIds,
    add_disambig,
    lexicon_fst,
)
from lmu_asr.lang.openfst import FstColumns

TOKENS = {"<blk>": 0, "a": 1, "b": 2, "c": 3, "SIL": 4, "#0": 5, "#1": 6, "#2": 7, "#3": 8}
WORDS = {"<eps>": 0, "x": 1, "y": 2, "z": 3, "#0": 4}
ENTRIES = st.lists(
    st.tuples(st.sampled_from("xyz"), st.lists(st.sampled_from("abc"), min_size=1, max_size=3)),
    min_size=1,
    max_size=6,
    unique_by=lambda entry: (entry[0], tuple(entry[1])),
).map(lambda rows: sorted((word, tuple(tokens)) for word, tokens in rows))


def paths(fst: FstColumns, longest: int) -> dict[tuple, float]:
    """Least cost of each (input, output) label pair with at most ``longest`` inputs."""
    arcs = defaultdict(list)
    for s, d, i, o, c in zip(fst.src, fst.dst, fst.ilabel, fst.olabel, fst.cost, strict=True):
        arcs[int(s)].append((int(d), int(i), int(o), float(c)))
    found: dict[tuple, float] = {}
    todo = [(fst.start, (), (), 0.0)]
    while todo:
        state, ins, outs, cost = todo.pop()
        if np.isfinite(fst.final[state]):
            found[ins, outs] = min(found.get((ins, outs), math.inf), cost + fst.final[state])
        for d, i, o, c in arcs[state]:
            if len(ins) + (i > 0) <= longest:
                todo.append((d, ins + (i,) * (i > 0), outs + (o,) * (o > 0), cost + c))
    return found


def spelled(lexicon: list[Entry], longest: int) -> set[tuple]:
    """All pairs of token ids and word ids that sequences of entries give."""
    found, todo = set(), [((), ())]
    while todo:
        tokens, words = todo.pop()
        found.add((tokens, words))
        for word, pron in lexicon:
            longer = tokens + tuple(TOKENS[t] for t in pron)
            if len(longer) <= longest:
                todo.append((longer, (*words, WORDS[word])))
    return found


@settings(max_examples=40, deadline=None)
@given(ENTRIES)
def test_l_holds_the_lexicon(lexicon: list[Entry]) -> None:
    found = paths(lexicon_fst(lexicon, TOKENS, WORDS), 4)
    assert found.keys() == spelled(lexicon, 4)
    assert set(found.values()) == {0.0}


@settings(max_examples=60, deadline=None)
@given(ENTRIES)
def test_disambiguation_makes_tokens_tell_the_words(lexicon: list[Entry]) -> None:
    marked, highest = add_disambig(lexicon)
    assert [(w, tuple(t for t in p if t[0] != "#")) for w, p in marked] == lexicon
    sequences = [pron for _, pron in marked]
    for one, other in itertools.permutations(sequences, 2):
        assert one != other[: len(one)]
    counts = Counter(pron for _, pron in lexicon)
    for (_, plain), (_, pron) in zip(lexicon, marked, strict=True):
        starts_another = any(p != plain and p[: len(plain)] == plain for p in counts)
        assert (pron != plain) == (counts[plain] > 1 or starts_another)
    used = {int(t[1:]) for p in sequences for t in p if t[0] == "#"}
    assert used == set(range(1, highest + 1))


def test_hand_worked_disambiguation() -> None:
    lexicon = [("a", ("p",)), ("b", ("p",)), ("c", ("p", "q")), ("d", ("q",)), ("e", ("p",))]
    want = [("p", "#1"), ("p", "#2"), ("p", "q"), ("q",), ("p", "#3")]
    marked, highest = add_disambig(lexicon)
    assert [pron for _, pron in marked] == want and highest == 3


def test_l_disambig_passes_the_grammar_symbol_through() -> None:
    fst = lexicon_fst([("x", ("a", "b"))], TOKENS, WORDS, self_loop=(5, 4))
    found = paths(fst, 4)
    assert ((5, 1, 2, 5), (4, 1, 4)) in found
    assert ((1, 5, 2), (1, 4)) not in found


def test_optional_silence() -> None:
    fst = lexicon_fst([("x", ("a",)), ("y", ("b", "c"))], TOKENS, WORDS, None, SilenceIds(4))
    found = paths(fst, 4)
    half = math.log(2)
    assert found[(1,), (1,)] == pytest.approx(2 * half)
    assert found[(4, 1, 4), (1,)] == pytest.approx(2 * half)
    assert found[(1, 4, 2, 3), (1, 2)] == pytest.approx(3 * half)
    assert all(4 not in (a, b) for ins, _ in found for a, b in itertools.pairwise(ins) if a == b)
    marked = paths(lexicon_fst([("x", ("a",))], TOKENS, WORDS, (5, 4), SilenceIds(4, 6)), 4)
    assert ((4, 6, 1), (1,)) in marked and ((4, 1), (1,)) not in marked
