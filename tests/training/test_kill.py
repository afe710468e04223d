"""Runs that are killed, stopped and resumed end like an undisturbed run, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmu_asr.checkpoints.checkpoint import CheckpointStore
from lmu_asr.training.loop.metrics import read_metrics
from tests.training.outcome import differences, outcome
from tests.training.toy import Gate, ended, free_port, run, spawn

KILLS = int(os.environ.get("TRAINING_KILLS", "4"))
OPTIONS = ["train.ema=0.9", "train.average=2", "train.accumulate=2", "train.log_every=2"]
PAUSE = "toy.pause=0.05"  # makes the run long enough to be killed at many moments


@pytest.mark.parametrize("size", [1, 2])
def test_sigkill_at_random_moments(tmp_path: Path, size: int) -> None:
    options = [*OPTIONS, f"train.epochs={max(3, KILLS)}"]  # 5 batches each: it ends after all kills
    run(tmp_path / "calm", *options, size=size)
    draw = random.Random(size)
    gate = Gate(tmp_path / "killed", 4)
    for attempt in range(KILLS):
        gate.close()
        processes = spawn(tmp_path / "killed", [*options, PAUSE, "toy.hold=4"], size)
        gate.wait(draw.randint(1, 5), processes)
        time.sleep(draw.uniform(0.0, 0.06))
        assert [process.exitcode for process in processes] == [None] * size
        victims = processes if attempt % 2 else processes[:1]  # or one alone: the others fail
        for process in victims:
            process.kill()
        gate.open()
        assert 0 not in ended(processes)
    run(tmp_path / "killed", *options, size=size)
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "killed")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_leaves_with_success(tmp_path: Path, number: signal.Signals) -> None:
    run(tmp_path / "calm", *OPTIONS)
    gate = Gate(tmp_path / "stopped", 5)
    options = [*OPTIONS, "toy.hold=5", "train.checkpoint_every=99"]
    (process,) = spawn(tmp_path / "stopped", options)
    gate.wait(6, [process])
    os.kill(process.pid or 0, number)
    gate.open()
    ended([process])
    assert process.exitcode == 0
    assert 0 < CheckpointStore(tmp_path / "stopped", 1).steps()[-1] < 9
    run(tmp_path / "stopped", *OPTIONS, "train.checkpoint_every=99")
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "stopped")) == []


@pytest.mark.skipif(
    torch.__version__ < "2" and sys.version_info >= (3, 11),
    reason="torchrun of torch 1 fails on Python 3.11 before it starts a process",
)
def test_torchrun_gives_the_loss_of_one_process(tmp_path: Path) -> None:
    options = ["model.dropout=0", "train.epochs=4", "train.checkpoint_every=99"]
    run(tmp_path / "one", *options)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += [f"--master_port={free_port()}", "-m", "tests.training.toy", str(tmp_path / "two")]
    subprocess.run([*command, *options], check=True, capture_output=True, timeout=600)
    one, two = (
        [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if row["kind"] != "final"]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 24
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
        assert theirs.get("grad_norm", 0) == pytest.approx(ours.get("grad_norm", 0), rel=1e-3)


def test_other_number_of_processes_goes_on(tmp_path: Path) -> None:
    options = ["model.dropout=0", "train.checkpoint_every=99"]
    run(tmp_path / "calm", *options)
    gate = Gate(tmp_path / "grown", 5)
    (process,) = spawn(tmp_path / "grown", [*options, "toy.hold=5"])
    gate.wait(6, [process])
    process.terminate()
    gate.open()
    ended([process])
    run(tmp_path / "grown", *options, size=2)
    ours, theirs = outcome(tmp_path / "calm"), outcome(tmp_path / "grown")
    for name, value in ours["tensors"]["model"].items():
        assert theirs["tensors"]["model"][name].numpy() == pytest.approx(value.numpy(), rel=1e-3)
    assert [row["step"] for row in theirs["file"]] == [row["step"] for row in ours["file"]]
