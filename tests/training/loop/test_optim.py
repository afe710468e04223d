"""Schedules by hand-worked values, decay groups, running average, loss scale, flat gradients."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lmu_asr.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from lmu_asr.config import TrainConfig
from lmu_asr.errors import ConfigError
from lmu_asr.training.loop.optim import (
    FlatGradients,
    LossScale,
    RunningAverage,
    build_optimizer,
    learning_rate,
    load_optimizer,
    swapped_weights,
)


def test_cosine_values() -> None:
    config = TrainConfig(lr=1.0, warmup_steps=10, min_lr_ratio=0.1)
    got = [learning_rate(step, 110, config) for step in (1, 5, 10, 60, 110, 500)]
    assert got == pytest.approx([0.1, 0.5, 1.0, 0.1 + 0.9 * 0.5, 0.1, 0.1])


def test_cosine_at_a_quarter() -> None:
    config = TrainConfig(lr=2.0, warmup_steps=0, min_lr_ratio=0.0)
    assert learning_rate(25, 100, config) == pytest.approx(1.0 + math.cos(math.pi / 4))


def test_constant_and_noam_values() -> None:
    constant = TrainConfig(lr=1.0, warmup_steps=4, schedule="constant")
    assert [learning_rate(s, 9, constant) for s in (2, 4, 9)] == [0.5, 1.0, 1.0]
    noam = TrainConfig(lr=1.0, warmup_steps=100, schedule="noam", min_lr_ratio=0.02)
    got = [learning_rate(s, 10**7, noam) for s in (50, 100, 400, 10**6, 10**7)]
    assert got == pytest.approx([0.5, 1.0, 0.5, 0.02, 0.02])


def test_constant_then_a_straight_line_down() -> None:
    config = TrainConfig(
        lr=1.0, warmup_steps=10, schedule="constant_decay", decay_share=0.2, min_lr_ratio=0.1
    )
    got = [learning_rate(s, 100, config) for s in (5, 10, 80, 90, 100, 500)]
    assert got == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1, 0.1])


def test_eden_values() -> None:
    config = TrainConfig(
        lr=1.0, warmup_steps=100, schedule="eden", eden_steps=300, eden_epochs=4, min_lr_ratio=0.01
    )
    got = [learning_rate(s, 10**8, config, steps_per_epoch=100) for s in (50, 300, 10**8)]
    # by hand: factors in steps and in epochs; at step 300 the steps' is 2^-1/4, the epochs' (25/16)^-1/4
    want = [
        0.5 * (37 / 36) ** -0.25 * (65 / 64) ** -0.25,
        2**-0.25 * (25 / 16) ** -0.25,
        0.01,
    ]
    assert got == pytest.approx(want)


def test_warm_up_is_cut_to_a_short_run() -> None:
    config = TrainConfig(lr=1.0, warmup_steps=1000, min_lr_ratio=0.0)
    assert learning_rate(9, 10, config) == 1.0
    assert learning_rate(10, 10, config) == pytest.approx(0.0)
    assert learning_rate(1, 1, config) == pytest.approx(0.0)


def test_only_matrices_are_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer(model, TrainConfig(lr=0.5, weight_decay=0.1))
    optimizer.step()
    values = {name: p.mean().item() for name, p in model.named_parameters()}
    assert values == pytest.approx(
        {"0.weight": 0.95, "0.bias": 1.0, "1.weight": 1.0, "1.bias": 1.0}
    )


def test_first_adamw_step_is_lr_times_sign() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[3.0, -0.5]])
    build_optimizer(model, TrainConfig(lr=0.01, weight_decay=0.0)).step()
    torch.testing.assert_close(before - model.weight, torch.tensor([[0.01, -0.01]]))


@pytest.mark.extras
def test_8_bit_adamw_keeps_close_to_adamw_and_goes_on_alike(tmp_path: Path) -> None:
    target = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    weights = {}
    for name in ("adamw", "adamw8bit", "resumed"):
        torch.manual_seed(0)
        model = nn.Linear(64, 128)
        config = TrainConfig(optimizer="adamw" if name == "adamw" else "adamw8bit", lr=0.01)
        optimizer = build_optimizer(model, config)
        for step in range(60):
            if name == "resumed" and step == 20:
                save_checkpoint(tmp_path / "a.pt", {"optimizer": optimizer.state_dict()}, {})
                saved = load_checkpoint(tmp_path / "a.pt").tensors["optimizer"]
                optimizer = build_optimizer(model, config)
                load_optimizer(optimizer, saved)
            model.zero_grad()
            (model.weight - target).square().sum().backward()
            optimizer.step()
        weights[name] = model.weight.detach().clone()
        if name == "adamw8bit":
            states = optimizer.state[model.weight]
            assert states["state1"].dtype == states["state2"].dtype == torch.uint8
    assert torch.equal(weights["resumed"], weights["adamw8bit"])
    moved = (weights["adamw"] - target).norm()
    assert (weights["adamw"] - weights["adamw8bit"]).norm() < 0.05 * moved


def test_8_bit_adamw_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        ConfigError, match=r"needs the package bitsandbytes .*setup\.sh --with-extras"
    ):
        build_optimizer(nn.Linear(2, 2), TrainConfig(optimizer="adamw8bit"))


def test_optimizer_state_survives_and_goes_on_alike() -> None:
    results = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        optimizer = build_optimizer(model, TrainConfig())
        for step in range(4):
            if interrupted and step == 2:
                saved = optimizer.state_dict()
                optimizer = build_optimizer(model, TrainConfig())
                load_optimizer(optimizer, saved)
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, float(step + 1))
            optimizer.step()
        results.append(model.weight.detach().clone())
    assert torch.equal(results[0], results[1])


def test_running_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = RunningAverage(model, 0.5)
    nn.init.ones_(model.weight)
    average.update(model, 1)  # decay (1 + 1) / (10 + 1)
    first = 1 - 2 / 11
    assert average.weights["weight"].item() == pytest.approx(first)
    average.update(model, 1000)
    assert average.weights["weight"].item() == pytest.approx(0.5 * first + 0.5)


def test_swapped_weights_come_back_after_an_error() -> None:
    model = nn.Linear(1, 1)
    before = model.weight.item()
    other = {name: torch.full_like(v, 9.0) for name, v in model.state_dict().items()}
    with pytest.raises(KeyError), swapped_weights(model, other):
        assert model.weight.item() == 9.0
        raise KeyError
    assert model.weight.item() == before


def test_loss_scale_halves_and_doubles() -> None:
    scale = LossScale(8.0, 0, dynamic=True, growth_interval=3)
    for overflow in (True, False, False, False, False):
        scale.update(overflow)
    assert (scale.scale, scale.good_steps) == (8.0, 1)
    fixed = LossScale()
    fixed.update(True)
    assert fixed.scale == 1.0


@pytest.mark.parametrize("clip", [0.0, 1.0, 100.0])
def test_flat_gradients_equal_torch_clipping(clip: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    flat = FlatGradients(model.parameters(), extra=2)
    x = torch.randn(7, 3)
    for _ in range(2):  # the second pass shows that zero() clears
        flat.zero()
        (model(x).square().sum() * 4.0).backward()
    norm = flat.finish(4.0, clip)
    got = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for parameter in model.parameters():
        parameter.grad = None
    model(x).square().sum().backward()
    expected = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
    assert norm == pytest.approx(expected.item())
    for ours, parameter in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)
    assert flat.extra.tolist() == [0.0, 0.0]
