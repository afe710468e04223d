"""H, HL and HLG against exhaustive enumeration on random lexica, language models and posteriors."""

import numpy as np
import pytest
import torch

from lmu_asr.fsa.openfst import OpenFstEngine
from lmu_asr.fsa.options import SearchOptions
from tests.fsa.small import best_by_enumeration, random_log_probs, random_small

WIDE = SearchOptions(search_beam=1000.0, lattice_beam=1000.0, max_active=100000)


@pytest.mark.parametrize("block", range(10))
def test_decoded_path_is_the_best_of_all(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        rng = np.random.default_rng(seed)
        small = random_small(rng)
        scores = random_log_probs(rng, int(rng.integers(3, 6)), small.lang.vocab_size)
        lm_scale = float(rng.choice([0.5, 1.0, 1.5]))
        for kind, graph in small.graphs.items():
            best = best_by_enumeration(scores, small, kind, lm_scale)
            log_probs = torch.from_numpy(scores)[None]
            options = SearchOptions(1000.0, 1000.0, 100000, lm_scale=lm_scale)
            hyp = OpenFstEngine().decode(log_probs, torch.tensor([len(scores)]), graph, options)[0]
            assert best is not None
            assert not hyp.fallback
            assert hyp.score == pytest.approx(best.score, abs=1e-3), (seed, kind)
            if best.margin > 1e-3:
                ids = hyp.tokens if kind == "H" else [small.lang.word_ids[w] for w in hyp.words]
                assert tuple(ids) == best.output, (seed, kind)


@pytest.mark.parametrize("seed", range(5))
def test_modified_topology_needs_no_blank_between_equal_tokens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = random_small(rng, "modified")
    log_probs = torch.log_softmax(torch.zeros(1, 2, small.lang.vocab_size), -1)
    log_probs[:, :, 1] += 5.0  # two frames that both want token 1
    hyp = OpenFstEngine().decode(log_probs, torch.tensor([2]), small.graphs["H"], WIDE)[0]
    assert hyp.score == pytest.approx(float(log_probs[0, :, 1].sum()), abs=1e-4)
    lattice = OpenFstEngine().lattices(log_probs, torch.tensor([2]), small.graphs["H"], WIDE)[0]
    assert lattice is not None
    outputs = {path.words: path.am_score for path in lattice.nbest(100)}
    assert outputs[(1, 1)] == pytest.approx(outputs[(1,)], abs=1e-4)
