"""Losses against sums over all alignments, and the consistency loss against its definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lmu_asr.config import config_from_dict
from lmu_asr.errors import ConfigError
from lmu_asr.training.loss import (
    TrainingLoss,
    consistency_loss,
    ctc_loss,
    make_training_loss,
)


def brute_force(log_probs: Tensor, target: list[int]) -> float:
    """-log of the sum over all paths (T tokens each) that collapse to ``target``."""
    total = 0.0
    T, V = log_probs.shape
    for path in itertools.product(range(V), repeat=T):
        if [k for k, _ in itertools.groupby(path) if k != 0] == target:
            total += math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
    return -math.log(total)


def random_log_probs(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(*shape).log_softmax(-1)


def test_ctc_is_the_sum_over_alignments() -> None:
    log_probs = random_log_probs(3, 4, 3)
    targets, lens = [[1, 1], [2], [1, 2]], [4, 3, 2]
    got = ctc_loss(log_probs, torch.tensor(lens), targets)
    want = [brute_force(log_probs[n, : lens[n]], targets[n]) for n in range(3)]
    assert got.tolist() == pytest.approx(want, rel=1e-5)


def test_ctc_of_no_tokens_and_of_too_few_frames() -> None:
    log_probs = random_log_probs(2, 2, 3)
    got = ctc_loss(log_probs, torch.tensor([2, 2]), [[], [1, 1]])
    assert got[0].item() == pytest.approx(-log_probs[0, :, 0].sum().item())
    assert got[1].item() == math.inf


def test_loss_over_texts_takes_the_place_of_ctc() -> None:
    def by_text(log_probs: Tensor, lens: Tensor, texts: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(text)) for text in texts])

    log_probs, lens = random_log_probs(2, 4, 3), torch.tensor([4, 4])
    loss = TrainingLoss(ctc_loss, graph=by_text)
    assert loss(log_probs, lens, [[1], [2]], ["one", "twenty"]).tolist() == [3.0, 6.0]
    views = TrainingLoss(ctc_loss, cr_ctc=1e-9, graph=by_text)
    twice = torch.cat([log_probs, log_probs])
    got = views(twice, lens.repeat(2), [[1], [2]], ["one", "twenty"])
    assert got.tolist() == pytest.approx([3.0, 6.0])


def test_graph_loss_needs_a_lexicon() -> None:
    with pytest.raises(ConfigError, match="needs a lang directory with a lexicon"):
        make_training_loss(config_from_dict({"train": {"loss": "graph_ctc"}}, "test"), object())
    plain = make_training_loss(config_from_dict({"train": {"cr_ctc": 0.5}}, "test"), object())
    assert plain == TrainingLoss(ctc_loss, 0.5)


def test_consistency_by_definition_in_float64() -> None:
    first, second = random_log_probs(2, 5, 4), random_log_probs(2, 5, 7)[..., :4].log_softmax(-1)
    lens = torch.tensor([5, 2])
    a, b = first.double(), second.double()
    both = (b.exp() * (b - a) + a.exp() * (a - b)).sum(-1)  # (N, T)
    want = [0.5 * both[0].sum(), 0.5 * both[1, :2].sum()]
    got = consistency_loss(first, second, lens)
    torch.testing.assert_close(got.double(), torch.stack(want), rtol=1e-5, atol=1e-6)


def test_consistency_ignores_undefined_padding() -> None:
    first, second = random_log_probs(1, 4, 3), random_log_probs(1, 4, 3).roll(1, -1)
    want = consistency_loss(first[:, :2], second[:, :2], torch.tensor([2]))
    second[:, 2:] = math.nan
    assert torch.equal(consistency_loss(first, second, torch.tensor([2])), want)


def test_consistency_stops_the_gradient_of_targets() -> None:
    logits = [torch.randn(1, 3, 4, requires_grad=True) for _ in range(2)]
    first, second = (x.log_softmax(-1) for x in logits)
    consistency_loss(first, second, torch.tensor([3])).sum().backward()
    # d KL(p || softmax(z)) / dz = softmax(z) - p, half of it; no path through p
    for ours, other in (logits, logits[::-1]):
        want = 0.5 * (ours.softmax(-1) - other.softmax(-1)).detach()
        torch.testing.assert_close(ours.grad, want)


def test_two_views_average_their_ctc_and_add_consistency() -> None:
    log_probs, lens, targets = random_log_probs(4, 6, 5), torch.tensor([6, 4, 6, 4]), [[1, 2], [3]]
    loss = TrainingLoss(ctc_loss, cr_ctc=0.2)
    single = ctc_loss(log_probs, lens, targets * 2)
    consistency = consistency_loss(log_probs[:2], log_probs[2:], lens[:2])
    want = 0.5 * (single[:2] + single[2:]) + 0.2 * consistency
    torch.testing.assert_close(loss(log_probs, lens, targets), want)
    assert loss.views == 2 and TrainingLoss(ctc_loss).views == 1
