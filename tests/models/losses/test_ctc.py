"""Losses against sums over all alignments, and the consistency loss against its definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lmu_asr.config_files import config_from_dict
from lmu_asr.errors import ConfigError
from lmu_asr.models.ctc import CtcHead, inter_ctc_layers
from lmu_asr.models.losses.ctc import (
    annealed_ctc_loss,
    consistency_loss,
    ctc_loss,
    uniform_loss,
)
from lmu_asr.models.losses.training import TrainingLoss
from tests.training.toy import ToyLang


def brute_force(log_probs: Tensor, target: list[int]) -> float:
    """-log of the sum over all paths (T tokens each) that collapse to ``target``."""
    total = 0.0
    T, V = log_probs.shape
    for path in itertools.product(range(V), repeat=T):
        if collapsed(path) == target:
            total += math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
    return -math.log(total)


def collapsed(path: Sequence[int]) -> list[int]:
    """Tokens of a path: repeats merged, blanks removed."""
    return [token for token, _ in itertools.groupby(path) if token != 0]


def random_log_probs(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(*shape).log_softmax(-1)


def test_ctc_is_the_sum_over_alignments() -> None:
    log_probs = random_log_probs(3, 4, 3)
    targets, lens = [[1, 1], [2], [1, 2]], [4, 3, 2]
    got = ctc_loss(log_probs, torch.tensor(lens), targets)
    want = [brute_force(log_probs[n, : lens[n]], targets[n]) for n in range(3)]
    assert got.tolist() == pytest.approx(want, rel=1e-5)


def test_annealed_gradient_at_power_1_is_that_of_ctc() -> None:
    torch.manual_seed(3)
    logits = torch.randn(3, 9, 5, requires_grad=True)
    lens, targets = torch.tensor([9, 6, 4]), [[1, 2, 2, 3], [4], []]
    gradients = []
    for power in (None, 1.0):
        log_probs = logits.log_softmax(-1)
        args = log_probs, lens, targets
        loss = ctc_loss(*args) if power is None else annealed_ctc_loss(*args, power)
        gradients.append(torch.autograd.grad(loss.sum(), logits)[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_annealed_at_power_0_counts_every_alignment_alike() -> None:
    T, target = 4, [1, 2]
    counts = torch.zeros(T, 3)
    paths = [p for p in itertools.product(range(3), repeat=T) if collapsed(p) == target]
    for path in paths:
        for t, token in enumerate(path):
            counts[t, token] += 1.0 / len(paths)
    log_probs = random_log_probs(1, T, 3)
    loss = annealed_ctc_loss(log_probs, torch.tensor([T]), [target], 0.0)
    torch.testing.assert_close(loss, -(counts * log_probs[0]).sum()[None])


def test_annealed_loss_of_too_few_frames_is_infinite_and_power_reaches_it() -> None:
    log_probs = random_log_probs(2, 3, 4)
    lens, targets = torch.tensor([3, 1]), [[1], [1, 2]]
    loss = annealed_ctc_loss(log_probs, lens, targets, 0.5)
    assert math.isfinite(loss[0]) and loss[1] == math.inf
    torch.testing.assert_close(TrainingLoss(ctc_loss)(log_probs, lens, targets, power=0.5), loss)


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
    head, lang = CtcHead(4, 5), ToyLang()
    with pytest.raises(ConfigError, match="needs a lang directory with a lexicon"):
        head.prepare(config_from_dict({"model": {"ctc": {"loss": "graph_ctc"}}}, "test"), lang, ())
    head.prepare(config_from_dict({"model": {"ctc": {"cr_ctc": 0.5}}}, "test"), lang, ())
    assert head.rule == TrainingLoss(ctc_loss, 0.5) and head.views == 2


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


def test_uniform_loss_by_hand() -> None:
    uniform = torch.full((1, 3, 4), -math.log(4.0))
    certain = torch.tensor([[[0.0, -200.0, -200.0, -200.0]]]).expand(1, 3, 4)
    halves = torch.tensor([[[0.5, 0.5, 1e-30, 1e-30]]]).log().expand(1, 3, 4)
    both = torch.cat([uniform, certain, halves])
    got = uniform_loss(both, torch.tensor([3, 2, 1]))
    want = [0.0, 2 * math.log(4.0), math.log(4.0) - math.log(2.0)]
    assert got.tolist() == pytest.approx(want, abs=1e-6)


def test_uniform_loss_is_the_divergence_and_ignores_padding() -> None:
    log_probs = random_log_probs(2, 5, 6)
    p = log_probs.double().exp()
    per_frame = (p * (p * 6).log()).sum(-1)
    got = uniform_loss(log_probs, torch.tensor([5, 2]))
    assert got.tolist() == pytest.approx([float(per_frame[0].sum()), float(per_frame[1, :2].sum())])
    log_probs[1, 2:] = math.nan
    assert torch.equal(uniform_loss(log_probs, torch.tensor([5, 2])), got)


def test_label_smoothing_takes_its_share() -> None:
    log_probs, lens, targets = random_log_probs(2, 6, 5), torch.tensor([6, 4]), [[1, 2], [3]]
    got = TrainingLoss(ctc_loss, label_smoothing=0.1)(log_probs, lens, targets)
    want = 0.9 * ctc_loss(log_probs, lens, targets) + 0.1 * uniform_loss(log_probs, lens)
    torch.testing.assert_close(got, want)


def test_inner_outputs_share_the_loss_and_consistency_is_of_the_last() -> None:
    log_probs, targets = random_log_probs(12, 6, 5), [[1, 2], [3]]  # 3 outputs of 2 views of 2
    lens = torch.tensor([6, 4]).repeat(6)
    got = TrainingLoss(ctc_loss, cr_ctc=0.2, inter_ctc=0.3, taps=2)(log_probs, lens, targets)
    single = ctc_loss(log_probs, lens, targets * 6).view(3, 2, 2).mean(1)  # (output, utterance)
    consistency = consistency_loss(log_probs[:2], log_probs[2:4], lens[:2])
    want = 0.7 * single[0] + 0.3 * 0.5 * (single[1] + single[2]) + 0.2 * consistency
    torch.testing.assert_close(got, want)


def test_inner_layers_of_options() -> None:
    def layers(**ctc: object) -> tuple[int, ...]:
        values = {"model": {"num_layers": 6, "ctc": ctc}}
        return inter_ctc_layers(config_from_dict(values, "test"))

    assert layers() == layers(inter_ctc_layers=[2]) == ()
    assert layers(inter_ctc=0.3) == (3,)
    assert layers(inter_ctc=0.3, inter_ctc_layers=[4, 2, 4]) == (2, 4)
    with pytest.raises(ConfigError, match=r"\[2, 6\]: 6 is no inner layer of model.num_layers=6"):
        layers(inter_ctc=0.3, inter_ctc_layers=[2, 6])
