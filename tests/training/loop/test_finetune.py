"""Weights to start from, frozen parts, parts that learn slowly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lmu_asr.checkpoints.checkpoint import save_checkpoint
from lmu_asr.config import TrainConfig
from lmu_asr.errors import CheckpointError, ConfigError
from lmu_asr.models.system import SpeechModel, build_model
from lmu_asr.training.loop.finetune import freeze, start_from, with_lr_scales
from lmu_asr.training.loop.optim import build_optimizer, set_learning_rate
from lmu_asr.training.parallel.processes import current_world
from tests.models.small import model_config
from tests.training.toy import make_trainer, toy_config

SMALL = model_config(dim=8, num_layers=1, thetas=[4.0], memory_order=2, subsampling_channels=2)


def small_model(vocab_size: int = 5, seed: int = 0) -> SpeechModel:
    torch.manual_seed(seed)
    return build_model(SMALL, 8, vocab_size)


def saved(path: Path, model: nn.Module, tokens: str = "abc") -> str:
    save_checkpoint(path, {"model": model.state_dict()}, {"identity": {"tokens": tokens}})
    return str(path)


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def test_all_weights_where_the_tokens_are_the_same(tmp_path: Path) -> None:
    old, new = small_model(), small_model(seed=1)
    start_from(new, saved(tmp_path / "a.pt", old), "abc")
    wanted = old.state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in new.state_dict().items())


@pytest.mark.parametrize(("vocab_size", "tokens"), [(5, "xyz"), (7, "xyz"), (7, "")])
def test_other_tokens_get_a_new_output_layer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, vocab_size: int, tokens: str
) -> None:
    old, new = small_model(), small_model(vocab_size, seed=1)
    head = {n: v.clone() for n, v in new.state_dict().items() if n.startswith("head.")}
    start_from(new, saved(tmp_path / "a.pt", old), tokens)
    wanted = old.state_dict() | head
    assert head and all(torch.equal(wanted[n], value) for n, value in new.state_dict().items())
    assert (
        f"has other tokens (5, here {vocab_size}): the output layer starts from random weights"
        in caplog.text
    )


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"a\.pt: has no tensor"):
        start_from(small_model(), path, "xyz")


def test_frozen_parts_stay_bit_for_bit(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, current_world(prefer_gpu=False), toy_config("train.freeze=[first.*]")
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.run()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"norm.weight", "norm.bias", "head.linear.weight", "head.linear.bias"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [(["firts.*"], r"train.freeze: 'firts\.\*' fits no parameter"), (["*"], "no parameter to")],
)
def test_patterns_that_cannot_be(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze(two_layers(), patterns)


def test_first_step_is_lr_times_factor() -> None:
    model = two_layers()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    config = TrainConfig(lr=1.0, weight_decay=0.0, lr_scales=["0.bias=0", "0.*=0.1", "*.bias=0.5"])
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    steps = {n: (before[n] - p).mean().item() for n, p in model.named_parameters()}
    want = {"0.weight": 0.001, "0.bias": 0.0, "1.weight": 0.01, "1.bias": 0.005}
    assert steps == pytest.approx(want, abs=1e-7)


def test_groups_keep_what_they_have() -> None:
    model = two_layers()
    groups = [{"params": list(model.parameters()), "weight_decay": 0.3}]
    assert with_lr_scales(groups, model, []) == groups
    found = with_lr_scales(groups, model, ["1.*=0.5"])
    assert [(g["lr_scale"], g["weight_decay"], len(g["params"])) for g in found] == [
        (1.0, 0.3, 2),
        (0.5, 0.3, 2),
    ]


@pytest.mark.parametrize("rule", ["0.*", "=0.5", "0.*=-1", "0.*=x", "0.*=inf", "0.*=nan"])
def test_rules_that_cannot_be(rule: str) -> None:
    with pytest.raises(ConfigError, match="want PATTERN=FACTOR"):
        with_lr_scales([], two_layers(), [rule])


def test_a_rule_for_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"train\.lr_scales: '2\.\*' fits no parameter"):
        with_lr_scales([], two_layers(), ["2.*=0.5"])
