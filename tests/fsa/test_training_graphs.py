"""Graphs of transcripts accept exactly the CTC paths of all pronunciations."""

import itertools

import pytest

from lmu_asr.errors import LangError
from lmu_asr.fsa.training_graphs import TrainingGraph, pronunciation_graph
from tests.fsa.small import collapse_reference, make_lang

LEXICON = [("a", ("x",)), ("a", ("x", "y")), ("b", ("y",)), ("twice", ("x", "x"))]


def paths(graph: TrainingGraph, frames: int, vocab: int) -> dict[tuple[int, ...], int]:
    """How many ways the graph reads each frame sequence."""
    found = {}
    for path in itertools.product(range(vocab), repeat=frames):
        ways = {graph.arrays.start: 1}
        for token in path:
            after: dict[int, int] = {}
            for src, arc in zip(graph.arrays.src.tolist(), graph.arrays.arcs, strict=True):
                if src in ways and arc["ilabel"] == token:
                    after[int(arc["dst"])] = after.get(int(arc["dst"]), 0) + ways[src]
            ways = after
        count = sum(n for state, n in ways.items() if graph.arrays.final[state] == 0.0)
        if count:
            found[path] = count
    return found


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("a", ["x", "x y"]),
        ("a b", ["x y", "x y y"]),
        ("b a", ["y x", "y x y"]),
        ("twice", ["x x"]),
        ("", [""]),
    ],
)
def test_paths_are_those_of_ctc_over_the_pronunciations(text: str, allowed: list[str]) -> None:
    lang, _ = make_lang(LEXICON)
    graph = pronunciation_graph(text.split(), lang)
    tokens = [tuple(lang.token_ids[t] for t in way.split()) for way in allowed]
    expected = {
        path: 1
        for path in itertools.product(range(3), repeat=4)
        if collapse_reference(path) in tokens
    }
    assert paths(graph, 4, 3) == expected
    assert not graph.min_frames or not paths(graph, graph.min_frames - 1, 3)
    assert paths(graph, graph.min_frames, 3)


def test_silence_is_optional_around_words() -> None:
    lang, _ = make_lang([("a", ("x",)), ("b", ("SIL",))])
    silence, x = lang.token_ids["SIL"], lang.token_ids["x"]
    found = {
        collapse_reference(path) for path in paths(pronunciation_graph(["a", "a"], lang), 5, 3)
    }
    expected = {
        tuple(
            t for part in ((silence,) * i, (x,), (silence,) * j, (x,), (silence,) * k) for t in part
        )
        for i in (0, 1)
        for j in (0, 1)
        for k in (0, 1)
    }
    assert found == {tokens for tokens in expected if len(tokens) + (silence not in tokens) <= 5}


def test_states_know_their_word() -> None:
    lang, _ = make_lang(LEXICON)
    graph = pronunciation_graph(["b", "twice"], lang)
    by_token = {}
    for arc in graph.arrays.arcs:
        by_token.setdefault(int(graph.word_of_state[arc["dst"]]), set()).add(int(arc["ilabel"]))
    assert by_token == {-1: {0}, 0: {lang.token_ids["y"]}, 1: {lang.token_ids["x"]}}


def test_word_without_pronunciation_is_named() -> None:
    lang, _ = make_lang(LEXICON)
    with pytest.raises(LangError, match="'c' has no pronunciation"):
        pronunciation_graph(["a", "c"], lang)
