"""The metrics history on disk, and the picture of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from lmu_asr.training.loop import metrics as module
from lmu_asr.training.loop.metrics import MetricsLog, plot_training, read_metrics
from lmu_asr.training.loop.trackers import open_tensorboard

ROWS = [{"kind": "train", "step": step, "epoch": 1, "loss": 1.0 / step} for step in (1, 2)]


def test_resume_drops_rows_beyond_the_history(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, [])
    for step in (1, 2, 3):
        log.add("train", step, 1, loss=1.0 / step)
    with open(log.path, "a") as stream:
        stream.write('{"kind": "tr')  # cut by a kill
    resumed = MetricsLog(tmp_path, ROWS)
    resumed.add("dev", 2, 1, wer=0.5)
    want = [*ROWS, {"kind": "dev", "step": 2, "epoch": 1, "wer": 0.5}]
    assert read_metrics(log.path) == resumed.rows == want


def test_history_is_restored_where_the_file_is_lost(tmp_path: Path) -> None:
    MetricsLog(tmp_path, ROWS)
    assert read_metrics(tmp_path / "metrics.jsonl") == ROWS


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, ROWS, writes=False)
    log.add("dev", 3, 1, wer=0.5)
    log.close()
    assert len(log.rows) == 3 and not list(tmp_path.iterdir())


def test_a_failing_disk_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(tmp_path, ROWS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log.path.unlink()
    log.path.mkdir()  # appending fails
    monkeypatch.setattr(module, "atomic_write_text", full)
    log.add("train", 3, 1, loss=0.3)
    log.add("train", 4, 1, loss=0.2)
    monkeypatch.undo()
    log.path.rmdir()
    log.add("train", 5, 1, loss=0.1)
    assert [row["step"] for row in read_metrics(log.path)] == [1, 2, 3, 4, 5]
    assert caplog.text.count("tried again later") == 1


def test_tensorboard_has_the_scalars(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    tracker = open_tensorboard(tmp_path, [])
    assert tracker is not None
    log = MetricsLog(tmp_path, [], [tracker])
    log.add("train", 1, 1, loss=0.5)
    log.add("skipped", 2, 1, reason="x", utterances=["a"])
    log.close()
    events = accumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.5)]


def test_picture_shows_rows_with_undefined_values(tmp_path: Path) -> None:
    rows = [*ROWS, {"kind": "dev", "step": 2, "epoch": 1, "loss": 1.0, "wer": float("nan")}]
    path = tmp_path / "train.png"
    plot_training(json.loads(json.dumps(rows)), path, "toy")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_picture_says_what_its_error_rate_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    drawn = Axes.set_title
    monkeypatch.setattr(
        Axes, "set_title", lambda self, label, **k: (titles.append(label), drawn(self, label, **k))
    )
    plot_training(ROWS, tmp_path / "train.png", "toy", "phone")
    assert "dev phone error rate" in titles and "dev word error rate" not in titles
