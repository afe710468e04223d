"""Exchanging language models gives every sentence the new model's score, exactly."""

import numpy as np
import pytest
import torch

from lmu_asr.decoding.searches.ngram import NgramScorer
from lmu_asr.decoding.searches.rescore import Exchange, rescore_lattice, rescore_paths
from lmu_asr.fsa.openfst import OpenFstEngine
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.ngram import train_ngram
from tests.fsa.small import compile_small, random_log_probs

TEXT = ["a b a", "b a", "a a b", "b", "c a b", "a c"]
LEXICON = [("a", ("x",)), ("b", ("y",)), ("b", ("x", "y")), ("c", ("y", "x"))]


@pytest.mark.parametrize("seed", range(8))
def test_every_path_gets_the_new_score(seed: int) -> None:
    small = compile_small(LEXICON, TEXT, order=2)
    old, new = NgramScorer(train_ngram(TEXT, 2)), NgramScorer(train_ngram(TEXT[::2], 3))
    exchange = Exchange(old, new, small.lang)
    scores = random_log_probs(np.random.default_rng(seed), 8, small.lang.vocab_size)
    options = SearchOptions(search_beam=50.0, lattice_beam=8.0, acoustic_scale=0.9, lm_scale=1.1)
    lattice = OpenFstEngine().lattices(
        torch.from_numpy(scores)[None], torch.tensor([8]), small.graphs["HLG"], options
    )[0]
    assert lattice is not None
    before = {p.words: p for p in lattice.nbest(10**5)}
    after = {p.words: p for p in rescore_lattice(lattice, exchange).nbest(10**5)}
    assert after.keys() == before.keys()
    assert len(after) > 3
    for words, path in after.items():
        symbols = [small.lang.words[w] for w in words]
        gain = new.score(symbols) - old.score(symbols)
        assert path.lm_score == pytest.approx(before[words].lm_score + gain, abs=1e-6)
        assert path.am_score == pytest.approx(before[words].am_score, abs=1e-6)
    listed = rescore_paths(list(before.values()), exchange)
    assert [p.lm_score for p in listed] == pytest.approx([after[p.words].lm_score for p in listed])
    best = max(after.values(), key=lambda p: 0.9 * p.am_score + 1.1 * p.lm_score)
    assert rescore_lattice(lattice, exchange).best_path().words == best.words


def test_graph_score_is_that_of_the_model_where_no_back_off_is_cheaper() -> None:
    small = compile_small([("a", ("x",)), ("b", ("y",))], ["a b", "a b", "b a"], order=2)
    model = NgramScorer(train_ngram(["a b", "a b", "b a"], 2))
    frames = torch.tensor([[small.lang.token_ids[t] for t in "xy"]])
    logits = 9.0 * torch.nn.functional.one_hot(frames, small.lang.vocab_size)
    hyp = OpenFstEngine().decode(
        torch.log_softmax(logits, -1), torch.tensor([2]), small.graphs["HLG"], SearchOptions()
    )[0]
    assert hyp.words == ["a", "b"]
    assert hyp.lm_score == pytest.approx(model.score(["a", "b"]), abs=1e-3)
