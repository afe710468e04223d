"""The OpenFst engine: loss against enumeration, search in its corner cases."""

import itertools
import logging

import numpy as np
import pytest
import torch

from lmu_asr.errors import ConfigError, DataError, GraphError
from lmu_asr.fsa.engine import get_engine
from lmu_asr.fsa.openfst import OpenFstEngine
from lmu_asr.fsa.options import SearchOptions
from tests.fsa.small import (
    Small,
    collapse_reference,
    compile_small,
    random_log_probs,
    random_small,
)


@pytest.fixture(scope="module")
def small() -> Small:
    lexicon = [("ab", ("a", "b")), ("b", ("b",)), ("ba", ("b", "a")), ("bb", ("b", "b"))]
    return compile_small(lexicon, ["ab b", "ba", "b ba ab", "bb"])


def batch(count: int, frames: int, vocab: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    made = [random_log_probs(rng, frames, vocab) for _ in range(count)]
    return torch.from_numpy(np.stack(made))


def loss_by_enumeration(log_probs: np.ndarray, target: list[int]) -> float:
    frames, vocab = log_probs.shape
    paths = itertools.product(range(vocab), repeat=frames)
    scores = [
        sum(log_probs[t, token] for t, token in enumerate(path))
        for path in paths
        if collapse_reference(path) == tuple(target)
    ]
    return -float(np.logaddexp.reduce(scores))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_names_the_utterance_and_the_frame(small: Small, bad: float) -> None:
    log_probs = batch(2, 6, small.lang.vocab_size)
    log_probs[1, 4, 2] = bad
    lens = torch.tensor([6, 6])
    with pytest.raises(DataError, match=r"utterance b: 1 of 6 frames .* first is 4"):
        OpenFstEngine().decode(log_probs, lens, small.graphs["HL"], SearchOptions(), ["a", "b"])
    lens[1] = 4  # behind the end nothing is read
    assert len(OpenFstEngine().decode(log_probs, lens, small.graphs["HL"], SearchOptions())) == 2


def test_posteriors_of_another_lang_are_refused(small: Small) -> None:
    with pytest.raises(GraphError, match="posteriors over 9 tokens"):
        OpenFstEngine().decode(
            batch(1, 4, 9), torch.tensor([4]), small.graphs["HLG"], SearchOptions()
        )


def only_token_a(small: Small) -> torch.Tensor:
    """Two frames that leave no complete word: token a is certain, and no word is just a."""
    log_probs = torch.full((1, 2, small.lang.vocab_size), -float("inf"))
    log_probs[0, :, small.lang.token_ids["a"]] = 0.0
    return log_probs


@pytest.mark.parametrize("kind", ["HL", "HLG"])
def test_empty_lattice_falls_back_to_greedy(small: Small, kind: str) -> None:
    log_probs = torch.cat([only_token_a(small), batch(1, 2, small.lang.vocab_size)])
    lens = torch.tensor([2, 2])
    hyps = OpenFstEngine().decode(log_probs, lens, small.graphs[kind], SearchOptions())
    assert [hyp.fallback for hyp in hyps] == [True, False]
    assert hyps[0].tokens == [small.lang.token_ids["a"]]
    lattices = OpenFstEngine().lattices(log_probs, lens, small.graphs[kind], SearchOptions())
    assert lattices[0] is None
    assert lattices[1] is not None


def test_utterance_without_frames(small: Small) -> None:
    log_probs = batch(1, 3, small.lang.vocab_size)
    hyp = OpenFstEngine().decode(log_probs, torch.tensor([0]), small.graphs["HL"], SearchOptions())
    assert hyp[0].words == []
    assert hyp[0].alignment == []


@pytest.mark.parametrize("kind", ["H", "HL", "HLG"])
def test_best_path_of_the_lattice_is_the_one_best(kind: str) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        small = random_small(rng)
        log_probs = torch.from_numpy(random_log_probs(rng, 9, small.lang.vocab_size))[None]
        options = SearchOptions(lattice_beam=4.0, acoustic_scale=0.8, lm_scale=1.2)
        engine, lens = OpenFstEngine(), torch.tensor([9])
        one = engine.decode(log_probs, lens, small.graphs[kind], options)[0]
        lattice = engine.lattices(log_probs, lens, small.graphs[kind], options)[0]
        assert lattice is not None
        best = lattice.best_path()
        assert 0.8 * best.am_score + 1.2 * best.lm_score == pytest.approx(one.score, abs=1e-3)
        acoustic = log_probs[0, np.arange(9), list(best.alignment)].double().sum()
        assert best.am_score == pytest.approx(float(acoustic), abs=1e-3)
        assert one.am_score == pytest.approx(float(acoustic), abs=1e-3)


def test_blank_penalty_makes_more_tokens(small: Small) -> None:
    log_probs = batch(1, 30, small.lang.vocab_size)
    counts = []
    for penalty in (0.0, 3.0):
        options = SearchOptions(blank_penalty=penalty)
        hyp = OpenFstEngine().decode(log_probs, torch.tensor([30]), small.graphs["H"], options)[0]
        counts.append(len(hyp.tokens))
    assert counts[0] < counts[1]


def test_processes_give_what_one_gives(small: Small) -> None:
    log_probs = batch(7, 20, small.lang.vocab_size)
    lens = torch.arange(14, 21)
    for scale in (1.0, 0.5):
        options = SearchOptions(lm_scale=scale)
        one = OpenFstEngine(1).decode(log_probs, lens, small.graphs["HLG"], options)
        engine = OpenFstEngine(2)
        assert engine.decode(log_probs, lens, small.graphs["HLG"], options) == one
        engine.close()


def test_engine_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert get_engine("openfst").name == "openfst"
        assert get_engine("auto").name in ("openfst", "k2")
    assert "fsa engine: openfst" in caplog.text
    with pytest.raises(ConfigError, match="want auto, k2 or openfst"):
        get_engine("kaldi")
