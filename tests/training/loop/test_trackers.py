"""Weights and Biases without a network: what is written, again after a stop, and what goes wrong."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmu_asr.errors import ConfigError, TrainingError
from lmu_asr.training.loop.metrics import MetricsLog, read_metrics
from lmu_asr.training.loop.trackers import open_trackers
from lmu_asr.training.parallel.processes import current_world
from tests.training.toy import make_trainer, toy_config

BLOCK = 32768


def records(path: Path) -> list[Any]:
    """Records of a ``.wandb`` file, once its writer, a process of its own, has ended it."""
    for _ in range(3000):
        found = list(scan(path))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{path}: no last record")


def scan(path: Path) -> Iterator[Any]:
    """Records there are so far: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        size, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or last part
            yield Record.FromString(record)
            record = b""


def history(path: Path) -> list[dict[str, float]]:
    found = (r.history.item for r in records(path) if r.WhichOneof("record_type") == "history")
    return [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row} for row in found
    ]


@pytest.mark.extras
def test_offline_run_has_every_number(tmp_path: Path) -> None:
    config = toy_config("train.wandb=offline", "train.epochs=1", "variant=v")
    make_trainer(tmp_path, current_world(prefer_gpu=False), config).run()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    got = {(int(row["_step"]), k): v for row in history(path) for k, v in row.items() if "/" in k}
    rows = read_metrics(tmp_path / "metrics.jsonl")
    want = {
        (row["step"], f"{row['kind']}/{key}"): value
        for row in rows
        for key, value in row.items()
        if key not in ("kind", "step", "epoch")
    }
    assert got == pytest.approx(want) and any(key[1] == "train/loss" for key in want)
    (run,) = (r.run for r in records(path) if r.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name) == ("lmu_asr", "mini-v")
    assert run.host != socket.gethostname()
    assert run.run_id == (tmp_path / "wandb-id.txt").read_text().strip()


@pytest.mark.extras
def test_the_same_run_goes_on(tmp_path: Path) -> None:
    config = toy_config("train.wandb=offline")
    for step in (1, 2):
        log = MetricsLog(tmp_path, [], open_trackers(config, tmp_path, []))
        log.add("train", step, 1, loss=float(step))
        log.close()
    found = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    ids = {r.run.run_id for p in found for r in records(p) if r.WhichOneof("record_type") == "run"}
    assert len(ids) == 1
    rows = [row for path in found for row in history(path)]
    assert sorted(row["train/loss"] for row in rows) == [1.0, 2.0]


@pytest.mark.extras
def test_online_without_a_login_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(TrainingError, match=r"run `wandb login`, or set train.wandb=offline"):
        open_trackers(toy_config("train.wandb=online"), tmp_path, [])


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"needs the package wandb .*setup.sh --with-extras"):
        open_trackers(toy_config("train.wandb=offline"), tmp_path, [])


def test_none_is_asked_for(tmp_path: Path) -> None:
    assert open_trackers(toy_config(), tmp_path, []) == []
    assert not list(tmp_path.iterdir())
