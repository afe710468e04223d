"""Hot words: what phrases earn and give back, and their composition with graphs."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmu_asr.decoding.searches.context import ContextGraph, boosted_graph, boosted_graphs, hot_words
from lmu_asr.errors import GraphError, LangError
from lmu_asr.fsa.openfst import OpenFstEngine
from lmu_asr.fsa.options import SearchOptions
from tests.decoding.small import char_lang
from tests.fsa.small import compile_small


def bonus(graph: ContextGraph, labels: list[int]) -> float:
    state, total = 0, 0.0
    for label in labels:
        total += graph.gain[state, label]
        state = graph.next[state, label]
    return float(total + graph.unfinished[state])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 2, 3], 3.0),  # the phrase
        ([1, 2], 0.0),  # its beginning gives everything back
        ([1, 2, 4], 2.0),  # falls from the first phrase into the second
        ([4, 1, 2, 3, 4], 3.0),
        ([1, 2, 3, 1, 2, 3], 6.0),
        ([1, 1, 2, 3], 3.0),  # a false start
        ([2, 4], 2.0),  # the other phrase
        ([1, 2, 4, 4], 2.0),
        ([], 0.0),
    ],
)
def test_phrases_by_hand(labels: list[int], expected: float) -> None:
    graph = ContextGraph([[1, 2, 3], [2, 4]], 5, boost=1.0)
    assert bonus(graph, labels) == expected


def test_finished_phrase_is_kept_when_a_longer_one_fails() -> None:
    graph = ContextGraph([[1], [1, 2, 3]], 5, boost=1.0)
    assert bonus(graph, [1, 2, 4]) == 1.0
    assert bonus(graph, [1, 2]) == 1.0
    assert bonus(graph, [1, 2, 3]) == 3.0


def earned(phrases: list[list[int]], labels: list[int]) -> int:
    """Labels that earn the boost, by definition: at every end the earliest start counts whose labels
    begin a phrase; from each start that ever counts, the longest phrase within its longest reach."""
    beginnings = {tuple(phrase[:n]) for phrase in phrases for n in range(1, len(phrase) + 1)}
    reach: dict[int, int] = {}
    for end in range(1, len(labels) + 1):
        starts = [i for i in range(end) if tuple(labels[i:end]) in beginnings]
        if starts:
            reach[starts[0]] = end
    return sum(
        max((len(p) for p in phrases if labels[i:end][: len(p)] == p), default=0)
        for i, end in reach.items()
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(1, 4), max_size=10),
)
@example([[1], [1, 2, 3]], [1, 2, 1, 2, 3])  # one phrase begins another
@example([[1, 2], [2, 3]], [1, 2, 3])  # they overlap: both count
@example([[1, 2, 3], [2]], [1, 2, 4, 2])  # within a longer one that fails it does not count
def test_any_phrases_earn_what_the_definition_says(
    phrases: list[list[int]], labels: list[int]
) -> None:
    graph = ContextGraph(phrases, 5, boost=0.5)
    assert bonus(graph, labels) == 0.5 * earned(phrases, labels)


def test_composition_gives_a_sentence_its_boost() -> None:
    lexicon = [("see", ("s", "i")), ("sea", ("s", "i")), ("the", ("t", "e"))]
    small = compile_small(lexicon, ["the sea"] * 5 + ["the see"])
    lang = small.lang
    ids = [lang.token_ids[t] for t in ["t", "e", "s", "i"]]
    frames = torch.tensor([[i for t in ids for i in (t, 0)]])
    log_probs = torch.log_softmax(9.0 * torch.nn.functional.one_hot(frames, lang.vocab_size), -1)
    lens = torch.tensor([8])
    plain = OpenFstEngine().decode(log_probs, lens, small.graphs["HLG"], SearchOptions())[0]
    assert plain.words == ["the", "sea"]
    results = {}
    for boost in (0.1, 5.0):
        context = hot_words(lang, ["the see"], boost, "word")
        graph = boosted_graph(small.graphs["HLG"], context)
        results[boost] = OpenFstEngine().decode(log_probs, lens, graph, SearchOptions())[0]
    assert results[0.1].words == ["the", "sea"]
    assert results[0.1].score == pytest.approx(plain.score, abs=1e-3)  # "the" was given back
    assert results[5.0].words == ["the", "see"]
    by_kind = boosted_graphs(small.graphs, lang, ["the see"], 5.0)
    assert by_kind["H"] is small.graphs["H"]
    for kind in ("HL", "HLG"):
        hyp = OpenFstEngine().decode(log_probs, lens, by_kind[kind], SearchOptions())[0]
        assert hyp.words == ["the", "see"]
    lattice = OpenFstEngine().lattices(
        log_probs, lens, small.graphs["HLG"], SearchOptions(lattice_beam=20.0)
    )[0]
    assert lattice is not None
    scores = {tuple(lang.words[w] for w in p.words): p.lm_score for p in lattice.nbest(9)}
    assert results[5.0].lm_score == pytest.approx(scores["the", "see"] + 10.0, abs=1e-3)


def test_phrase_that_the_sentence_ends_within_is_given_back() -> None:
    small = compile_small([("b", ("x",)), ("c", ("y",))], ["b", "b c"])
    lang = small.lang
    log_probs = torch.full((1, 1, lang.vocab_size), -5.0)
    log_probs[0, 0, lang.token_ids["x"]] = 0.0
    hyps = [
        OpenFstEngine().decode(log_probs, torch.tensor([1]), graph, SearchOptions())[0]
        for graph in (
            small.graphs["HLG"],
            boosted_graph(small.graphs["HLG"], hot_words(lang, ["b c"], 7.0, "word")),
        )
    ]
    assert hyps[0].words == hyps[1].words == ["b"]
    assert hyps[1].score == pytest.approx(hyps[0].score, abs=1e-3)


def test_refusals() -> None:
    small = compile_small([("a", ("x",)), ("b", ("y",))], ["a b"])
    context = hot_words(small.lang, ["a"], 1.0, "word")
    with pytest.raises(GraphError, match="H has no words"):
        boosted_graph(small.graphs["H"], context)
    lang = char_lang("ab", ["ab"])
    assert hot_words(lang, ["ab"], 1.0, "token").next.shape == (4, 4)
    with pytest.raises(LangError, match="empty phrase"):
        hot_words(lang, [" "], 1.0, "token")
    with pytest.raises(LangError, match="hot word 'c'"):
        hot_words(lang, ["ab c"], 1.0, "word")
