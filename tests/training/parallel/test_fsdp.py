"""Sharded parameters on two processes: the losses and weights of whole ones, and exact resuming."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmu_asr.checkpoints.checkpoint import CheckpointStore, load_checkpoint
from lmu_asr.errors import TrainingError
from lmu_asr.training.loop.metrics import read_metrics
from lmu_asr.training.parallel.fsdp import blocks, shard
from lmu_asr.training.parallel.processes import current_world
from lmu_asr.training.parallel.strategy import is_for_several
from lmu_asr.training.parallel.whole import optimizer_parts, parts, whole
from tests.training import tiny_run
from tests.training.outcome import differences, outcome
from tests.training.processes import wait_for_checkpoint
from tests.training.tiny_data import make_data
from tests.training.toy import Gate, ToyModel, ended, run, spawn, toy_config

HAS_FSDP = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 7)
NEEDS_FSDP = pytest.mark.skipif(not HAS_FSDP, reason="train.strategy=fsdp needs torch 2.7")
SHARDED = ["train.strategy=fsdp", "features.num_mel_bins=8"]
OPTIONS = ["model.dropout=0", "train.ema=0.9", "train.average=2", "train.frame_limit=40"]


def curve(exp_dir: Path) -> list[tuple[int, str, float]]:
    """Step, kind and loss of every line."""
    rows = read_metrics(exp_dir / "metrics.jsonl")
    return [(row["step"], row["kind"], row["loss"]) for row in rows]


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Weights, running average and optimiser state agree, whole and under the same names."""
    for name in ours.keys() & {"model", "ema"}:
        assert ours[name].keys() == theirs[name].keys()
        for key, value in ours[name].items():
            torch.testing.assert_close(theirs[name][key], value, rtol=1e-3, atol=1e-5)
    states = ours["optimizer"]["state"], theirs["optimizer"]["state"]
    assert states[0].keys() == states[1].keys() != set()
    for index, state in states[0].items():
        for key, value in state.items():
            torch.testing.assert_close(states[1][index][key], value, rtol=1e-2, atol=1e-5)


@NEEDS_FSDP
@pytest.mark.parametrize(("rows", "strategy"), [(1, "fsdp"), (5, "fsdp"), (5, "zero2")])
def test_shards_train_as_whole_parameters_do(tmp_path: Path, rows: int, strategy: str) -> None:
    """Of one utterance the second process has none; of five in twos it has one pass less."""
    options = [*OPTIONS, f"toy.rows={rows}"]
    run(tmp_path / "ddp", *options, "features.num_mel_bins=8", size=2)
    run(tmp_path / "fsdp", *options, *SHARDED, f"train.strategy={strategy}", size=2)
    ours, theirs = curve(tmp_path / "ddp"), curve(tmp_path / "fsdp")
    assert [row[:2] for row in ours] == [row[:2] for row in theirs] and len(ours) > 15
    assert [row[2] for row in theirs] == pytest.approx([row[2] for row in ours], rel=1e-4)
    for name in ("last.pt", "best.pt"):
        both = [load_checkpoint(tmp_path / kind / name).tensors for kind in ("ddp", "fsdp")]
        assert_close(*both)


def check_that_a_killed_run_goes_on(tmp_path: Path, strategy: list[str]) -> None:
    """A run whose processes are killed ends bit-equal to an undisturbed one."""
    options = ["train.ema=0.9", "train.average=2", *strategy]
    run(tmp_path / "calm", *options, size=2)
    processes = spawn(tmp_path / "killed", [*options, "toy.hold=5"], 2)
    wait_for_checkpoint(tmp_path / "killed")
    for process in processes:
        process.kill()
    assert ended(processes) == [-signal.SIGKILL] * 2
    run(tmp_path / "killed", *options, size=2)
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "killed")) == []


def stop_in_the_middle(exp_dir: Path, options: list[str]) -> None:
    """Train until a checkpoint is there, then ask one of the two processes to save and leave."""
    gate = Gate(exp_dir, 5)
    processes = spawn(exp_dir, [*options, "toy.hold=5"], 2)
    wait_for_checkpoint(exp_dir)
    processes[1].terminate()
    gate.open()
    assert ended(processes) == [0, 0]
    assert 0 < CheckpointStore(exp_dir, 1).steps()[-1] < 15


@NEEDS_FSDP
@pytest.mark.parametrize("strategy", ["fsdp", "zero2"])
def test_a_stopped_run_goes_on_exactly(tmp_path: Path, strategy: str) -> None:
    check_that_a_killed_run_goes_on(tmp_path, [*SHARDED, f"train.strategy={strategy}"])


@NEEDS_FSDP
@pytest.mark.parametrize("size", [1, 2])
def test_a_run_goes_on_with_another_strategy(tmp_path: Path, size: int) -> None:
    options = ["model.dropout=0", "train.ema=0.9", "train.average=2", "features.num_mel_bins=8"]
    run(tmp_path / "ddp", *options, size=2)
    stop_in_the_middle(tmp_path / "both", [*options, *SHARDED])
    run(tmp_path / "both", *options, size=size)
    assert_close(*(load_checkpoint(tmp_path / n / "last.pt").tensors for n in ("ddp", "both")))


@NEEDS_FSDP
def test_the_real_model_in_shards(tmp_path: Path) -> None:
    make_data(tmp_path)
    options = ["model.dropout=0", "model.num_layers=2", "train.ema=0.9"]
    for name in ("ddp", "fsdp"):
        arguments = (str(tmp_path / name), *options, f"train.strategy={name}")
        run(tmp_path, *arguments, size=2, entry=tiny_run.main)
    ours, theirs = curve(tmp_path / "ddp"), curve(tmp_path / "fsdp")
    assert [row[2] for row in theirs] == pytest.approx([row[2] for row in ours], rel=1e-4)
    assert_close(*(load_checkpoint(tmp_path / n / "last.pt").tensors for n in ("ddp", "fsdp")))


def test_whole_tensors_pass_through() -> None:
    model = ToyModel(0.0)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 5, 8), torch.tensor([5, 5]))[0].sum().backward()
    optimizer.step()
    state = model.state_dict()
    assert parts(state, state) == dict(state)
    assert optimizer_parts(optimizer.state_dict(), optimizer) == optimizer.state_dict()
    nest = {"a": [state["first.weight"], 1.5], "b": ("x", None)}
    assert differences(whole(nest, keep=False), nest) == []


def test_blocks_are_the_items_of_outer_lists() -> None:
    inner = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.ReLU()])
    layer = torch.nn.Module()
    layer.inner = inner
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ModuleList([layer, layer]))
    assert blocks(model) == [layer, layer]


def test_an_old_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    with pytest.raises(TrainingError, match=r"needs torch 2\.7"):
        shard(ToyModel(0.0), current_world(prefer_gpu=False))


def test_an_optimiser_without_shards_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    config = toy_config("train.strategy=fsdp", "train.optimizer=adamw8bit")
    one = current_world(prefer_gpu=False)
    assert not is_for_several(config, one)
    assert "train.strategy=fsdp has no effect with one process" in caplog.text
    with pytest.raises(TrainingError, match="optimizer=adamw8bit: shards need adamw"):
        is_for_several(config, replace(one, world_size=2))
