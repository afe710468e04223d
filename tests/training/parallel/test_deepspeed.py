"""ZeRO by DeepSpeed on two processes: the losses and weights of ddp, exact resuming, another strategy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lmu_asr.checkpoints.checkpoint import load_checkpoint
from lmu_asr.data.batch import Batch
from lmu_asr.errors import ConfigError, TrainingError
from lmu_asr.training.loop.metrics import read_metrics
from lmu_asr.training.parallel.deepspeed import engine_options, load_deepspeed
from lmu_asr.training.parallel.processes import current_world
from tests.training import toy
from tests.training.parallel.test_fsdp import (
    OPTIONS,
    assert_close,
    check_that_a_killed_run_goes_on,
    curve,
    stop_in_the_middle,
)
from tests.training.processes import finish, launch
from tests.training.tiny_data import make_data
from tests.training.toy import run, toy_config

ZERO = ["train.strategy=deepspeed", "features.num_mel_bins=8"]
extras = [pytest.mark.slow, pytest.mark.extras]


def staged(folder: Path, stage: int, **more: Any) -> list[str]:
    """The option that names a file which asks for a stage."""
    path = folder / f"stage{stage}.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage, **more}}))
    return [f"train.deepspeed_config={path}"]


def assert_alike(ours: Path, theirs: Path) -> None:
    """The same curve, and the same weights, running average and optimiser state."""
    assert [row[:2] for row in curve(theirs)] == [row[:2] for row in curve(ours)]
    losses = [[row[2] for row in curve(place)] for place in (ours, theirs)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(losses[0]) > 10
    assert_close(*(load_checkpoint(place / "last.pt").tensors for place in (ours, theirs)))


def main_with_a_bad_utterance(argv: list[str]) -> int:
    """As :func:`tests.training.toy.main`; the second batch of each epoch has one undefined value."""
    make = toy.make_batch

    def broken(rows: int, *seed: Any) -> Batch:
        batch = make(rows, *seed)
        if seed[0] == "train" and seed[2] == 1:
            batch.features[0, 0, 0] = float("nan")
        return batch

    toy.make_batch = broken
    return toy.main(argv)


class TestOnTwoProcesses:
    pytestmark = extras

    @pytest.mark.parametrize("stage", [0, 2, 3])
    def test_an_undefined_loss_skips_the_step(self, tmp_path: Path, stage: int) -> None:
        options = ["model.dropout=0", "train.ema=0", "features.num_mel_bins=8"]
        main = main_with_a_bad_utterance
        run(tmp_path / "ddp", *options, size=2, entry=main)
        run(tmp_path / "zero", *options, *ZERO, *staged(tmp_path, stage), size=2, entry=main)
        skipped = [
            [
                row
                for row in read_metrics(tmp_path / name / "metrics.jsonl")
                if "skipped" in row.values()
            ]
            for name in ("ddp", "zero")
        ]
        assert [row["step"] for row in skipped[1]] == [2, 7, 12]
        assert [row["utterances"] for row in skipped[1]] == [
            row["utterances"] for row in skipped[0]
        ]
        both = [load_checkpoint(tmp_path / name / "last.pt").tensors for name in ("ddp", "zero")]
        assert_close(*both)

    @pytest.mark.parametrize("stage", [0, 1, 2, 3])
    def test_parts_train_as_whole_states_do(self, tmp_path: Path, stage: int) -> None:
        """Of five utterances in twos the second process has one pass less."""
        options = [*OPTIONS, "toy.rows=5", *(["train.ema=0"] if stage == 3 else [])]
        run(tmp_path / "ddp", *options, "features.num_mel_bins=8", size=2)
        run(tmp_path / "zero", *options, *ZERO, *staged(tmp_path, stage), size=2)
        assert_alike(tmp_path / "ddp", tmp_path / "zero")

    @pytest.mark.parametrize("stage", [2, 3])
    def test_a_killed_run_goes_on_exactly(self, tmp_path: Path, stage: int) -> None:
        ema = ["train.ema=0"] if stage == 3 else []
        check_that_a_killed_run_goes_on(tmp_path, [*ZERO, *ema, *staged(tmp_path, stage)])

    @pytest.mark.parametrize("stage", [0, 2, 3])
    @pytest.mark.parametrize("names", [("deepspeed", "ddp"), ("ddp", "deepspeed")])
    def test_a_run_goes_on_with_another_strategy(
        self, tmp_path: Path, names: tuple[str, str], stage: int
    ) -> None:
        options = ["model.dropout=0", "train.ema=0", "train.average=2", "features.num_mel_bins=8"]
        options += staged(tmp_path, stage)
        run(tmp_path / "ddp", *options, size=2)
        first, then = (f"train.strategy={name}" for name in names)
        stop_in_the_middle(tmp_path / "both", [*options, first])
        run(tmp_path / "both", *options, then, size=2)
        assert_close(*(load_checkpoint(tmp_path / n / "last.pt").tensors for n in ("ddp", "both")))

    def test_the_real_model_without_a_compiler(self, tmp_path: Path) -> None:
        make_data(tmp_path)
        built = tmp_path / "built"
        no_compiler = {"CXX": "/bin/false", "TORCH_EXTENSIONS_DIR": str(built)}
        options = ["model.dropout=0", "model.num_layers=2", "train.ema=0.9"]
        for name in ("ddp", "deepspeed"):
            module = ["tests.training.tiny_run", str(tmp_path), str(tmp_path / name)]
            arguments = [*module, *options, f"train.strategy={name}"]
            assert finish(launch(["--nproc", "2"], arguments, no_compiler))[0] == 0
        assert_alike(tmp_path / "ddp", tmp_path / "deepspeed")
        assert not built.exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(TrainingError, match=r"needs the package deepspeed .*--with-extras"):
        load_deepspeed(current_world(prefer_gpu=False))


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ({"optimizer": {"type": "Adam"}}, [], "'optimizer' is what train.optimizer decides"),
        ({"gradient_clipping": 1.0}, [], "'gradient_clipping' is what train.clip_norm decides"),
        ({"zero_optimization": {"stage": 3}}, ["train.ema=0.9"], "stage 3 .* set train.ema=0"),
        ({"zero_optimization": 2}, [], "want an object, got 2"),
        ([1], [], "want an object of DeepSpeed's options"),
        ({}, ["train.precision=fp16"], "take train.precision=bf16"),
    ],
)
def test_what_the_file_may_not_ask_for(
    tmp_path: Path, asked: Any, options: list[str], message: str
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(asked))
    config = toy_config(f"train.deepspeed_config={path}", *options)
    with pytest.raises(ConfigError, match=message):
        engine_options(config.train, 2)


def test_without_a_file_it_is_zero_2() -> None:
    options = engine_options(toy_config().train, 2)
    assert options["zero_optimization"]["stage"] == 2 and options["train_batch_size"] == 2
