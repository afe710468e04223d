"""What the trainer promises, in one process: records, refusals, skipping, early stopping, averaging."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from lmu_asr.checkpoints import checkpoint
from lmu_asr.checkpoints.checkpoint import average_weights, load_checkpoint, load_weights
from lmu_asr.errors import CheckpointError, TrainingError
from lmu_asr.files import read_json
from lmu_asr.training.launch.signals import RunStoppedError
from lmu_asr.training.loop import trainer as module
from lmu_asr.training.loop.evaluation import evaluate
from lmu_asr.training.loop.metrics import read_metrics
from lmu_asr.training.loop.optim import learning_rate
from lmu_asr.training.loop.step import TrainBatch
from lmu_asr.training.loop.trainer import Trainer
from lmu_asr.training.parallel.processes import World, current_world
from tests.training.loop.test_step import SmallMemory
from tests.training.outcome import differences, outcome
from tests.training.toy import F, ToyLang, ToyModel, ToySource, V, make_trainer, toy_config

WORLD = current_world(prefer_gpu=False)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmu_asr.training.loop.finish.plot_training", lambda *_: None)


class BadSource(ToySource):
    """One utterance of one batch has too many tokens for its frames."""

    def train_batches(self, epoch: int, start_batch: int) -> Iterator[TrainBatch]:
        for index, batch in enumerate(super().train_batches(epoch, start_batch), start_batch):
            if index == 2:
                batch.targets[0] = [1] * 15
            yield batch


class StoppingSource(ToySource):
    """Asks its trainer to stop while a batch of training or of validation is made."""

    trainer: Trainer
    at_train: int | None = None
    at_dev: int | None = None

    def train_batches(self, epoch: int, start_batch: int) -> Iterator[TrainBatch]:
        for index, batch in enumerate(super().train_batches(epoch, start_batch), start_batch):
            if index == self.at_train:
                self.trainer.stop.ask()
            yield batch

    def dev_batches(self) -> Iterator[Any]:
        for index, batch in enumerate(super().dev_batches()):
            if index == self.at_dev:
                self.trainer.stop.ask()
            yield batch


def train(exp_dir: Path, *options: str, **parts: Any) -> Trainer:
    trainer = make_trainer(exp_dir, WORLD, toy_config(*options), **parts)
    trainer.run()
    return trainer


def rows_of(exp_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(exp_dir / "metrics.jsonl") if row["kind"] == kind]


def test_a_run_leaves_what_it_should(tmp_path: Path) -> None:
    train(tmp_path, "train.epochs=4", "train.keep_last=1")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        ".lock",
        "averaged.pt",
        "best.pt",
        "checkpoint-18.pt",
        "checkpoint-20.pt",
        "last.pt",
        "metrics.jsonl",
        "training.json",
    }
    assert [row["step"] for row in rows_of(tmp_path, "train")] == list(range(1, 21))
    assert [row["step"] for row in rows_of(tmp_path, "dev")] == [5, 10, 15, 20]
    summary = read_json(tmp_path / "training.json")
    assert summary["parameters"] == (F + 1) * 12 + 24 + 13 * V
    assert (summary["steps"], summary["epochs"], summary["finished"]) == (20, 4, True)
    audio = sum(b.seconds for e in range(4) for b in ToySource(WORLD).train_batches(e, 0))
    assert summary["audio_hours"] == pytest.approx(audio / 3600, abs=1e-5)


def test_it_learns(tmp_path: Path) -> None:
    train(tmp_path, "train.epochs=25", "train.lr=0.05", "train.checkpoint_every=1000")
    first, last = rows_of(tmp_path, "train")[0], rows_of(tmp_path, "train")[-1]
    assert last["loss"] < 0.3 * first["loss"]
    assert rows_of(tmp_path, "final")[0]["wer"] < 0.5


def test_logged_learning_rates_follow_the_schedule(tmp_path: Path) -> None:
    config = toy_config()
    train(tmp_path)
    got = [row["lr"] for row in rows_of(tmp_path, "train")]
    assert got == [learning_rate(step, 15, config.train) for step in range(1, 16)]


def test_two_runs_are_bit_equal(tmp_path: Path) -> None:
    for name in "ab":
        train(tmp_path / name, "train.ema=0.9")
    assert differences(outcome(tmp_path / "a"), outcome(tmp_path / "b")) == []


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    train(tmp_path / "a")
    train(tmp_path / "b", "seed=1")
    assert differences(outcome(tmp_path / "a")["averaged"], outcome(tmp_path / "b")["averaged"])


@pytest.mark.parametrize("place", [{"at_train": 3}, {"at_dev": 1}])
def test_stopped_anywhere_it_goes_on_exactly(tmp_path: Path, place: dict[str, int]) -> None:
    options = ["train.ema=0.5", "train.average=2", "train.accumulate=2", "train.log_every=2"]
    train(tmp_path / "calm", *options)
    for _ in range(20):
        source = StoppingSource(WORLD)
        trainer = make_trainer(tmp_path / "stopped", WORLD, toy_config(*options), source)
        source.trainer = trainer
        vars(source).update(place)
        try:
            trainer.run()
        except RunStoppedError:
            place = {}
            continue
        break
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "stopped")) == []


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    train(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    class NoData(ToySource):
        def train_batches(self, epoch: int, start_batch: int) -> Iterator[TrainBatch]:
            raise AssertionError("read")

    train(tmp_path, source=NoData(WORLD))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_damaged_newest_checkpoint_costs_steps_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path / "calm")
    train(tmp_path / "hurt")
    newest = tmp_path / "hurt/checkpoint-15.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    train(tmp_path / "hurt")
    assert "checkpoint-15.pt: cut short" in caplog.text
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "hurt")) == []


@pytest.mark.parametrize(
    ("options", "manifest", "message"),
    [
        ((), "other", "another manifest"),
        (("train.lr=0.02",), "toy", "train.lr=0.01, now 0.02"),
        (("model.dropout=0.3", "seed=3"), "toy", "and 1 other"),
    ],
)
def test_another_run_is_refused(
    tmp_path: Path, options: tuple[str, ...], manifest: str, message: str
) -> None:
    train(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        train(tmp_path, *options, manifest=manifest)


def test_another_model_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint-15.pt: of another model"):
        train(tmp_path, model=SmallMemory(ToyModel(0.1), 10**9, "forward"))


def test_options_that_change_no_weights_may_change(tmp_path: Path) -> None:
    source = StoppingSource(WORLD)
    source.trainer = make_trainer(tmp_path, WORLD, toy_config(), source)
    source.at_train = 2
    with pytest.raises(RunStoppedError):
        source.trainer.run()
    train(tmp_path, "train.log_every=5", "train.keep_last=9")
    assert read_json(tmp_path / "training.json")["steps"] == 15


def test_infinite_losses_are_skipped_and_written_out(tmp_path: Path) -> None:
    trainer = train(tmp_path, "train.epochs=2", source=BadSource(WORLD))
    assert (trainer.state.skipped, trainer.state.updates) == (2, 8)
    skipped = rows_of(tmp_path, "skipped")
    assert [row["utterances"] for row in skipped] == [["train-0-2-0"], ["train-1-2-0"]]
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert read_json(tmp_path / "training.json")["skipped_steps"] == 2


class Explode(torch.autograd.Function):
    """Passes values on, and an infinite gradient at the second call."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        Explode.calls += 1
        return gradient * math.inf if Explode.calls == 2 else gradient


def test_infinite_gradients_are_skipped_and_name_their_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Explode, "calls", 0)
    model = ToyModel(0.0)
    model.first.register_forward_hook(lambda *arguments: Explode.apply(arguments[2]))
    trainer = train(tmp_path, "train.epochs=1", model=model)
    assert (trainer.state.skipped, trainer.state.updates) == (1, 4)
    (row,) = rows_of(tmp_path, "skipped")
    assert row["parameters"] == ["first.weight", "first.bias"] and row["step"] == 2
    assert len(row["utterances"]) == 6 and row["reason"] == "infinite or undefined gradient"
    assert "and 1 more; undefined gradients of first.weight first.bias" in caplog.text
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_nothing_but_infinite_losses_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SKIPPED_IN_A_ROW", 4)
    model = ToyModel(0.0)
    with torch.no_grad():
        model.head.linear.bias[0] = math.nan
    with pytest.raises(TrainingError, match="4 steps in a row without a finite loss"):
        train(tmp_path, model=model)


def test_float16_overflow_lowers_the_scale_and_is_no_bad_batch(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, WORLD, toy_config())
    trainer.scale = dataclasses.replace(trainer.scale, scale=2.0**66, dynamic=True)
    trainer.run()
    assert trainer.scale.scale < 2.0**66
    assert trainer.state.updates + trainer.state.skipped == 15
    assert trainer.state.updates > 0 and not rows_of(tmp_path, "skipped")


def test_early_stopping_counts_validations(tmp_path: Path) -> None:
    frozen = ["train.lr=0", "train.epochs=9", "train.patience=2", "model.dropout=0"]
    trainer = train(tmp_path, *frozen)
    assert trainer.state.epoch == 3
    assert trainer.state.best_epoch == 0


def test_max_steps_ends_inside_an_epoch_with_a_validation(tmp_path: Path) -> None:
    trainer = train(tmp_path, "train.max_steps=7")
    assert trainer.state.step == 7
    assert [row["step"] for row in rows_of(tmp_path, "dev")] == [5, 7]


def test_average_is_of_the_best_epochs(tmp_path: Path) -> None:
    trainer = train(tmp_path, "train.average=2", "train.epochs=5", "train.ema=0.8")
    ranked = sorted(trainer.state.epochs, key=lambda record: (record.wer, record.loss))[:2]
    paths = [tmp_path / f"epochs/epoch-{record.epoch + 1}.pt" for record in ranked]
    assert sorted((tmp_path / "epochs").iterdir()) == sorted(paths)
    want = average_weights([load_weights(path) for path in sorted(paths)])
    got = load_weights(tmp_path / "averaged.pt")
    assert differences(want, got) == []
    model = ToyModel(0.0)
    model.load_state_dict(got)
    result = evaluate(model, ToySource(WORLD).dev_batches(), ToyLang(), WORLD)
    assert rows_of(tmp_path, "final")[0]["loss"] == pytest.approx(result.loss)


def test_best_checkpoint_has_the_lowest_error_rate(tmp_path: Path) -> None:
    train(tmp_path, "train.epochs=6", "train.lr=0.05")
    dev = rows_of(tmp_path, "dev")
    best = min(dev, key=lambda row: (row["wer"], row["loss"]))
    assert load_checkpoint(tmp_path / "best.pt").meta["state"]["step"] == best["step"]


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    trainer = train(tmp_path, "train.accumulate=2")
    assert trainer.state.step == 9  # 5 batches: 2 + 2 + 1, three epochs


def test_a_full_disk_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, calls = checkpoint.write_sealed, []

    def fails_at_first(stream: IO[bytes], archive: bytes) -> None:
        calls.append(archive)
        if len(calls) <= 3:
            raise OSError(28, "No space left on device")
        write(stream, archive)

    monkeypatch.setattr(checkpoint, "write_sealed", fails_at_first)
    train(tmp_path / "full")
    monkeypatch.undo()
    monkeypatch.setattr("lmu_asr.training.loop.finish.plot_training", lambda *_: None)
    train(tmp_path / "calm")
    assert "'No space left on device'); training goes on" in caplog.text
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "full")) == []


def test_out_of_memory_is_counted(tmp_path: Path) -> None:
    model = SmallMemory(ToyModel(0.0), 60, "backward")
    trainer = train(tmp_path, model=model)
    assert trainer.state.out_of_memory == 2  # then chunks for good
    assert [row["retries"] for row in rows_of(tmp_path, "memory")] == [1.0, 1.0]


def test_dropout_differs_by_rank_but_not_by_run() -> None:
    drawn = []
    for rank in (0, 1, 0):
        world = World(rank, 2, rank, 2, torch.device("cpu"))
        trainer = make_trainer(Path("unused"), world, toy_config())
        trainer.state.step = 4
        trainer._seed_step()
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
