"""Checkpoints whose seal is right and whose content is not, and the small files beside them."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from lmu_asr.checkpoints import checkpoint as module
from lmu_asr.checkpoints.checkpoint import CheckpointStore, load_checkpoint, save_checkpoint
from lmu_asr.checkpoints.identity import Identity
from lmu_asr.errors import CheckpointError, DocumentError, advice
from lmu_asr.models.system import load_weights
from lmu_asr.training.loop.metrics import read_metrics
from lmu_asr.training.loop.snapshot import restore, restore_rank
from lmu_asr.training.loop.state import RunState
from lmu_asr.training.parallel.processes import World

IDENTITY = Identity("m", "t", {"train.lr": 0.1})
WORLD = World(0, 1, 0, 1, torch.device("cpu"))


def saved(tmp_path: Path, tensors: Any, meta: Any = None) -> Path:
    save_checkpoint(tmp_path / "a.pt", tensors, {} if meta is None else meta)
    return tmp_path / "a.pt"


@pytest.mark.parametrize(
    ("tensors", "meta", "message"),
    [
        ({"model": [1, 2]}, {}, "'model' is no dictionary"),
        ({"model": {"w": 3}}, {}, "'model' holds more than tensors"),
        ({"model": {}, "ema": {"w": "x"}}, {}, "'ema' holds more than tensors"),
        ({"model": {}}, [], "no dictionaries"),
        ({"model": {}}, {"identity": 3}, "'identity' is no dictionary"),
        ({"model": {}}, {"metrics": [1]}, "'metrics' are no list of rows"),
    ],
)
def test_content_of_another_shape(tmp_path: Path, tensors: Any, meta: Any, message: str) -> None:
    path = saved(tmp_path, tensors, meta)
    with pytest.raises(CheckpointError, match=rf"a\.pt: not a checkpoint.*{message}"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [3, [], {"tensors": 3}, {"tensors": {}, "meta": 3}])
def test_archive_of_something_else(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "b.pt")
    with open(tmp_path / "a.pt", "wb") as stream:
        module.write_sealed(stream, (tmp_path / "b.pt").read_bytes())
    with pytest.raises(CheckpointError, match="not a checkpoint of this package"):
        load_checkpoint(tmp_path / "a.pt")


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt: has no weights"):
        _ = load_checkpoint(saved(tmp_path, {"optimizer": {}})).weights


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(2, 3).to_sparse(), torch.zeros(2, 2), torch.tensor(1.0)],
)
def test_weights_that_cannot_be_copied(weight: torch.Tensor) -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=r"here: .*weight"):
        load_weights(model, {"weight": weight, "bias": torch.zeros(2)}, "here")


@pytest.mark.parametrize(
    "meta",
    [
        {"step": "three"},
        {"epochs": {"a": 1}},
        {"epochs": [{"epoch": 1}]},
        {"window": {"loss": []}},
        {"finished": 2},
        [],
    ],
)
def test_state_of_another_type(meta: Any) -> None:
    with pytest.raises(CheckpointError, match="not a run of this version"):
        RunState.from_json(meta)


@pytest.mark.parametrize("saved_as", [None, [], {}, {"config": 3}, {"config": {}, "tokens": 7}])
def test_identity_of_another_type(saved_as: Any) -> None:
    with pytest.raises(CheckpointError, match="here: "):
        IDENTITY.check(saved_as, "here")


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"ranks": {}},
        {"ranks": {"0": {"random": {"rest": "x"}, "frame_limit": 0}}},
        {"ranks": {"0": {"random": [], "frame_limit": 0}}},
        {"optimizer": {"state": 3}},
        {"optimizer": {"state": {}, "param_groups": [{"params": [0, 1, 2]}]}},
    ],
)
def test_run_that_cannot_go_on_says_so(tmp_path: Path, tensors: Any) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ranks": {}}
    checkpoint = load_checkpoint(saved(tmp_path, {**whole, **tensors}, {"world_size": 1}))
    with pytest.raises(CheckpointError, match=r"a\.pt: "):
        restore(checkpoint, model, optimizer, None)
        restore_rank(checkpoint, WORLD)


def test_metrics_with_a_cut_last_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, row = tmp_path / "metrics.jsonl", {"kind": "train", "step": 1, "epoch": 1}
    line = json.dumps(row) + "\n"
    path.write_text(line * 2 + line[:9])
    assert read_metrics(path) == [row, row]
    assert "metrics.jsonl:3" in caplog.text and "last line is cut" in caplog.text
    path.write_text(line + line[:9] + "\n" + line)
    with pytest.raises(DocumentError, match=r"metrics\.jsonl:2: not valid JSON"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
    ],
)
def test_advice_depends_on_the_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    wanted: str,
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(module, "_write_archive", fail)
    store = CheckpointStore(tmp_path, keep_last=1)
    with caplog.at_level(logging.ERROR):
        store.save(1, {"model": {}}, {})
        store._join()
    assert wanted in caplog.text and wanted in advice(OSError(number, "no"))
    assert ("free some space" in caplog.text) == (number in (errno.ENOSPC, errno.EDQUOT))
