"""Checkpoints: whole or refused, atomic, kept and retried as promised."""

from __future__ import annotations

import io
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.checkpoints import checkpoint as module
from lmu_asr.checkpoints.checkpoint import (
    CheckpointStore,
    average_weights,
    check_seal,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    serialize,
    write_sealed,
)
from lmu_asr.errors import CheckpointError

TENSORS = {
    "model": {"w": torch.arange(6.0).reshape(2, 3)},
    "list": [torch.tensor([1], dtype=torch.int64)],
}
META = {"step": 7, "loss": float("inf"), "text": "é"}


def seal(archive: bytes) -> bytes:
    stream = io.BytesIO()
    write_sealed(stream, archive)
    return stream.getvalue()


BYTES = seal(serialize(TENSORS, META))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", TENSORS, META)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(loaded.tensors["model"]["w"], TENSORS["model"]["w"])
    assert loaded.tensors["list"][0].dtype == torch.int64
    assert loaded.meta == META


def test_stays_an_archive_that_torch_and_zip_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", TENSORS, META)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(content["tensors"]["model"]["w"], TENSORS["model"]["w"])
    assert zipfile.ZipFile(tmp_path / "a.pt").testzip() is None


@settings(deadline=None)
@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position: int, change: int) -> None:
    data = bytearray(BYTES)
    data[position] ^= change
    with pytest.raises(CheckpointError, match="here: "):
        check_seal(bytes(data), "here")


@settings(deadline=None)
@given(st.integers(0, len(BYTES) - 1))
def test_any_cut_is_refused(size: int) -> None:
    check_seal(BYTES, "here")
    with pytest.raises(CheckpointError, match="here: cut short"):
        check_seal(BYTES[:size], "here")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save({"other": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not sealed"):
        load_checkpoint(tmp_path / "foreign.pt")
    (tmp_path / "sealed.pt").write_bytes(seal((tmp_path / "foreign.pt").read_bytes()))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "sealed.pt")


class Evil:
    """Makes a directory when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_sealed_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"tensors": Evil(tmp_path / "ran"), "meta": "{}"}, tmp_path / "evil.pt")
    (tmp_path / "evil.pt").write_bytes(seal((tmp_path / "evil.pt").read_bytes()))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_are_the_running_average_where_there_is_one(tmp_path: Path) -> None:
    ema = {"w": torch.ones(1)}
    save_checkpoint(tmp_path / "a.pt", {**TENSORS, "ema": ema}, {})
    assert torch.equal(load_weights(tmp_path / "a.pt")["w"], ema["w"])
    save_checkpoint(tmp_path / "b.pt", TENSORS, {})
    assert torch.equal(load_weights(tmp_path / "b.pt")["w"], TENSORS["model"]["w"])


def test_average_is_taken_in_float64_and_counts_are_kept() -> None:
    sets = [
        {"w": torch.tensor([v]), "n": torch.tensor([k])} for k, v in enumerate([1e8, 1.0, -1e8])
    ]
    mean = average_weights(sets)
    assert mean["w"].dtype == torch.float32
    assert mean["w"].item() == pytest.approx(1 / 3)
    assert mean["n"].item() == 2


def test_store_keeps_newest_best_and_last(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    for step in range(1, 6):
        store.save(step, TENSORS, {"step": step}, best=step == 2)
    assert store.wait()
    assert store.steps() == [4, 5]
    assert load_checkpoint(tmp_path / "last.pt").meta["step"] == 5
    assert load_checkpoint(tmp_path / "best.pt").meta["step"] == 2
    assert not list(tmp_path.glob(".*"))


def test_snapshot_is_of_the_moment_of_the_call(tmp_path: Path) -> None:
    weights = torch.zeros(3)
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save(1, {"model": {"w": weights}}, {})
    weights += 1
    store.wait()
    assert load_weights(tmp_path / "last.pt")["w"].tolist() == [0, 0, 0]


def test_falls_back_past_damaged_ones_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep_last=5)
    for step in (1, 2, 3):
        store.save(step, TENSORS, {"step": step}, best=step == 1)
    store.wait()
    store.path(3).write_bytes(store.path(3).read_bytes()[:-1])
    data = bytearray(store.path(2).read_bytes())
    data[100] ^= 1
    store.path(2).write_bytes(data)
    found = store.latest_good()
    assert found is not None and found.meta["step"] == 1
    assert "checkpoint-3.pt" in caplog.text and "checkpoint-2.pt" in caplog.text
    store.path(1).unlink()
    found = store.latest_good()
    assert found is not None and found.path.name == "best.pt"


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-3.pt.x1y2.tmp.pt").write_bytes(b"half")
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs/.epoch-1.pt.x1y2.tmp.pt").write_bytes(b"half")
    (tmp_path / ".train.stamp.json").write_text("{}")
    CheckpointStore(tmp_path, 1).clean()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [".train.stamp.json"]


def test_full_disk_keeps_the_last_good_and_is_retried(
    small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    big = {"model": {"w": torch.zeros(20_000)}}  # 80 KB
    store = CheckpointStore(small_disk, keep_last=9)
    store.save(1, big, {"step": 1}, best=True)
    assert store.wait()
    (small_disk / "filler").write_bytes(b"x" * 100_000)
    store.save(2, big, {"step": 2}, best=True)
    store.save(3, big, {"step": 3})
    assert not store.wait()
    assert "No space left" in caplog.text
    assert store.steps() == [1]
    assert load_checkpoint(small_disk / "best.pt").meta["step"] == 1
    (small_disk / "filler").unlink()
    store.retry()
    assert not store.wait() or store.steps() == [1, 2, 3]
    assert load_checkpoint(small_disk / "best.pt").meta["step"] == 2


def test_floats_outside_tensors_come_back_exactly(tmp_path: Path) -> None:
    # the safe loader of torch 1.13 refuses them as they are; an optimiser's state is full of them
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    numbers = {"values": [0.1, (float("inf"), -1e-300)], "count": 3, "on": True, "none": None}
    save_checkpoint(tmp_path / "a.pt", {"optimizer": optimizer.state_dict(), "n": numbers}, {})
    tensors = load_checkpoint(tmp_path / "a.pt").tensors
    assert tensors["n"] == numbers
    assert tensors["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
