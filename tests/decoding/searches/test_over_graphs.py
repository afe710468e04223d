"""Every search through the one door."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmu_asr.config import options
from lmu_asr.decoding.methods import METHODS, find_method
from lmu_asr.decoding.searches.greedy import greedy_search
from lmu_asr.decoding.searches.ngram import NgramScorer
from lmu_asr.decoding.searches.over_graphs import Inputs, nbest_lists
from lmu_asr.errors import ConfigError, DataError, GraphError
from lmu_asr.fsa.openfst import OpenFstEngine
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import BOUNDARY
from lmu_asr.lang.ngram import train_ngram
from lmu_asr.models.head import Head, Targets
from tests.fsa.small import Small, compile_small

WORDS = ["ab", "ba", "a", "bb"]
TEXT = ["ab ba", "a bb", "ba a ab", "bb bb"]


@pytest.fixture(scope="module")
def small() -> Small:
    return compile_small([(w, (BOUNDARY, *w)) for w in sorted(WORDS)], TEXT, 2, unit="char")


@pytest.fixture(scope="module")
def models() -> dict[str, NgramScorer]:
    return {
        "lm": NgramScorer(train_ngram(TEXT, 2)),
        "rescore_lm": NgramScorer(train_ngram([*TEXT, "a a a"], 3)),
    }


def spoken(small: Small, texts: list[str], noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, T, V) posteriors that spell the texts with a blank behind each token."""
    rng = np.random.default_rng(0)
    ids = [[i for t in small.lang.encode(text) for i in (t, 0)] for text in texts]
    longest = max(map(len, ids))
    logits = rng.normal(size=(len(ids), longest, small.lang.vocab_size)) * noise
    for row, path in zip(logits, ids, strict=True):
        row[np.arange(len(path)), path] += 6.0
    lens = torch.tensor([len(path) for path in ids])
    return torch.log_softmax(torch.from_numpy(logits), -1).float(), lens


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reads_what_is_spelled(
    method: str, small: Small, models: dict[str, NgramScorer]
) -> None:
    texts = ["ab ba", "bb", "a ba ab"]
    log_probs, lens = spoken(small, texts)
    graph = small.graphs.get(method if method in small.graphs else "HLG")
    inputs = Inputs(
        log_probs, lens, small.lang, SearchOptions(), graph=graph, engine=OpenFstEngine(), **models
    )
    hyps = find_method(method).search(inputs)
    assert [" ".join(hyp.words) for hyp in hyps] == texts
    for hyp, length in zip(hyps, lens.tolist(), strict=True):
        assert len(hyp.alignment) == length
        assert len(hyp.times) == len(hyp.tokens)
        assert not hyp.fallback
        if method != "greedy":
            assert len(hyp.word_spans) == len(hyp.words)
            assert all(a < b for a, b in hyp.word_spans)


@pytest.mark.parametrize("method", ["HL", "HLG", "nbest", "nbest_rescore", "lattice_rescore"])
def test_confidences_follow_the_posteriors(
    method: str, small: Small, models: dict[str, NgramScorer]
) -> None:
    log_probs, lens = spoken(small, ["ab ba"], noise=0.1)
    vague = log_probs.clone()
    at = [small.lang.token_ids["a"], small.lang.token_ids["b"]]
    vague[0, [2, 4]] = torch.log_softmax(torch.zeros(small.lang.vocab_size), -1)
    vague[0, 2, at] += 2.0  # "ab" may as well be something else
    options = SearchOptions(lattice_beam=15.0)
    graph = small.graphs["HL" if method == "HL" else "HLG"]
    use = {"graph": graph, "engine": OpenFstEngine(), **models}
    clear, blurred = (
        find_method(method).search(
            Inputs(x, lens, small.lang, options, confidences=True, **use)  # type: ignore[arg-type]
        )[0]
        for x in (log_probs, vague)
    )
    assert len(clear.confidences) == len(clear.words) == 2
    assert min(clear.confidences) > 0.95
    assert blurred.confidences[0] < 0.9
    assert blurred.confidences[1] > blurred.confidences[0]
    assert all(0.0 <= c <= 1.0 for c in clear.confidences + blurred.confidences)


def test_rescoring_changes_the_choice_for_the_larger_model(small: Small) -> None:
    log_probs, lens = spoken(small, ["a"], noise=0.0)
    log_probs[0, 1] = torch.log_softmax(torch.zeros(small.lang.vocab_size), -1)
    both = {"lm": NgramScorer(train_ngram(TEXT, 2))}
    found = {}
    for word in WORDS:
        larger = NgramScorer(train_ngram([word] * 40 + WORDS, 1))
        for method in ("nbest_rescore", "lattice_rescore"):
            inputs = Inputs(
                log_probs.repeat_interleave(2, 1),
                lens * 2,
                small.lang,
                SearchOptions(search_beam=60.0, lattice_beam=60.0, lm_scale=9.0),
                graph=small.graphs["HLG"],
                engine=OpenFstEngine(),
                rescore_lm=larger,
                **both,
            )
            hyp = find_method(method).search(inputs)[0]
            found[method, word] = hyp.words
    for word in WORDS:
        assert found["nbest_rescore", word] == found["lattice_rescore", word]
    assert len({tuple(words) for words in found.values()}) > 1


def test_nbest_lists_are_distinct_and_ordered(small: Small) -> None:
    log_probs, lens = spoken(small, ["ab ba"], noise=2.0)
    options = SearchOptions(lattice_beam=20.0, nbest=5)
    lattices = [*OpenFstEngine().lattices(log_probs, lens, small.graphs["HLG"], options), None]
    lists = nbest_lists(lattices, small.graphs["HLG"], options)
    assert len(lists[0]) == 5
    assert len({tuple(hyp.words) for hyp in lists[0]}) == 5
    assert [hyp.score for hyp in lists[0]] == sorted((h.score for h in lists[0]), reverse=True)
    assert lists[1] == []


def test_greedy_by_hand(small: Small) -> None:
    lang = small.lang
    a, b, edge = (lang.token_ids[t] for t in ("a", "b", BOUNDARY))
    frames = torch.tensor([[edge, a, a, 0, a, b, 0, edge, b, 0]])
    logits = 3.0 * torch.nn.functional.one_hot(frames, lang.vocab_size)
    hyp = greedy_search(torch.log_softmax(logits, -1), torch.tensor([9]), lang)[0]
    assert hyp.words == ["aab", "b"]
    assert hyp.tokens == [edge, a, a, b, edge, b]
    assert hyp.times == [0.0, 1.0, 4.0, 5.0, 7.0, 8.0]


def test_refusals(small: Small) -> None:
    log_probs, lens = spoken(small, ["ab"])
    plain = Inputs(log_probs, lens, small.lang, SearchOptions(), ["x"], engine=OpenFstEngine())
    with pytest.raises(ConfigError, match="search 'viterbi'"):
        find_method("viterbi")
    with pytest.raises(GraphError, match="needs a graph and an engine"):
        find_method("HLG").search(plain)
    with pytest.raises(GraphError, match=r"set lm\.rescore_order"):
        find_method("nbest_rescore").search(replace(plain, graph=small.graphs["HLG"]))
    log_probs[0, 1, 1] = float("nan")
    for name, method in METHODS.items():
        if not method.rescores:
            graph = small.graphs.get(name, small.graphs["HLG"])
            with pytest.raises(DataError, match="utterance x"):
                method.search(replace(plain, graph=graph))


def test_the_options_offer_every_method() -> None:
    (option,) = (o for o in options() if o.key == "decode.methods")
    assert tuple(option.limits["choices"]) == tuple(METHODS)


def test_greedy_of_a_head_that_scores_no_frames_is_its_own(small: Small) -> None:
    class Says(Head):
        def forward(self, encoded: Tensor) -> Tensor:
            return encoded

        def loss(self, outputs: Tensor, lens: Tensor, targets: Targets) -> Tensor:
            return outputs.sum((1, 2))

        def extend(self, outputs: Tensor, lens: Tensor, state: Any) -> tuple[list[list[int]], Any]:
            return [small.lang.encode(text) for text in ("ab ba", "a")], state

    log_probs, lens = spoken(small, ["bb", "bb"])
    found = find_method("greedy").search(
        Inputs(log_probs, lens, small.lang, SearchOptions(), head=Says())
    )
    assert [" ".join(h.words) for h in found] == ["ab ba", "a"]
