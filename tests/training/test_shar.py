"""Training from Shar: stopped anywhere it ends in the same bits, on two processes in the same losses."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from lmu_asr.errors import CheckpointError, DataError
from lmu_asr.training.loop import finish as finish_module
from lmu_asr.training.loop.metrics import read_metrics
from lmu_asr.training.loop.source import LoaderSource
from lmu_asr.training.run import run_training
from tests.data.shards import write_shar
from tests.training import tiny_run
from tests.training.outcome import differences, outcome
from tests.training.tiny_data import make_data, tiny_config
from tests.training.toy import run

OPTIONS = ["train.shar_window=12", "train.average=2", "train.checkpoint_every=1000"]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish_module, "plot_training", lambda *_: None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stages 1 and 2 leave, but the training split only as shards."""
    root = tmp_path_factory.mktemp("tiny")
    data_dir, _ = make_data(root)
    (data_dir / "train_cuts.jsonl.gz").unlink()
    write_shar(root / "shar", count=40, shard_size=6)
    return root


def train(prepared: Path, exp_dir: Path, *options: str) -> None:
    config = tiny_config(f"train.shar={prepared}/shar", *OPTIONS, *options)
    run_training(config, exp_dir, prepared / "data", prepared / "lang")


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    exp_dir = tmp_path_factory.mktemp("calm")
    train(prepared, exp_dir)
    return outcome(exp_dir)


@pytest.mark.parametrize("after", [1, 6, 15])
def test_stopped_at_any_batch(
    tmp_path: Path,
    prepared: Path,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    original, taken = LoaderSource._prepare, []

    def prepare(self: LoaderSource, *arguments: Any) -> Any:
        taken.append(0)
        if len(taken) == after:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(LoaderSource, "_prepare", prepare)
    with pytest.raises(SystemExit):
        train(prepared, tmp_path, "train.autoconf=false")
    assert not (tmp_path / "training.json").exists()
    monkeypatch.setattr(LoaderSource, "_prepare", original)
    train(prepared, tmp_path)
    assert (tmp_path / "training.json").exists()
    assert differences(outcome(tmp_path), undisturbed) == []


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path, prepared: Path) -> None:
    options = [f"train.shar={prepared}/shar", *OPTIONS, "model.dropout=0"]
    (prepared / "data/train_shar.index").unlink(missing_ok=True)
    for size in (1, 2):
        run(prepared, str(tmp_path / str(size)), *options, size=size, entry=tiny_run.main)
    one, two = (read_metrics(tmp_path / size / "metrics.jsonl") for size in ("1", "2"))
    assert [(r["step"], r["kind"]) for r in one] == [(r["step"], r["kind"]) for r in two]
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-4)


def test_other_shards_or_windows_are_refused(tmp_path: Path, prepared: Path) -> None:
    short = ["train.max_steps=2", "train.epochs=1"]
    train(prepared, tmp_path / "exp", *short)
    moved = tmp_path / "elsewhere"
    moved.symlink_to(prepared / "shar")
    train(prepared, tmp_path / "exp", *short, f"train.shar={moved}")
    with pytest.raises(CheckpointError, match="belongs to another manifest"):
        train(prepared, tmp_path / "exp", *short, "train.shar_window=20")
    write_shar(tmp_path / "other", count=12, shard_size=6, seed=1)
    with pytest.raises(CheckpointError, match="belongs to another manifest"):
        train(prepared, tmp_path / "exp", *short, f"train.shar={tmp_path}/other")


def test_an_archive_that_is_cut_stops_the_start(tmp_path: Path, prepared: Path) -> None:
    write_shar(tmp_path / "shar", count=12, shard_size=6)
    path = tmp_path / "shar/features.000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"features.000001.tar: cut short after 3000 bytes"):
        train(prepared, tmp_path / "exp", f"train.shar={tmp_path}/shar")
    assert not (tmp_path / "exp/metrics.jsonl").exists()
