"""One entry point under every launcher: the same losses, and runs that survive the loss of a process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lmu_asr.checkpoints.checkpoint import CheckpointStore
from lmu_asr.config_files import load_config
from lmu_asr.errors import TrainingError
from lmu_asr.models.system import build_model
from lmu_asr.training.launch.start import choose_gpus, parse
from lmu_asr.training.loop.metrics import read_metrics
from lmu_asr.training.loop.setup import check_accelerate, synchronize_batchnorm
from lmu_asr.training.parallel.processes import current_world
from tests.training.outcome import differences, outcome
from tests.training.processes import (
    NO_TORCHRUN,
    command_of,
    descendants,
    finish,
    launch,
    wait_for_checkpoint,
    wait_for_metrics,
)
from tests.training.tiny_data import BINS, make_data, tiny_config
from tests.training.toy import Gate, free_port, run

TOY = "tests.training.toy"
TINY = "tests.training.tiny_run"
HOLD = "toy.hold=5"  # it waits there until it has been killed
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    make_data(root)
    return root


@pytest.fixture(scope="module")
def one_process(prepared: Path) -> list[dict[str, Any]]:
    return losses_of(prepared, prepared / "plain", "plain", "1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the toy task on two processes ends with."""
    exp_dir = tmp_path_factory.mktemp("calm")
    run(exp_dir, size=2)
    return outcome(exp_dir)


def losses_of(prepared: Path, exp_dir: Path, launcher: str, size: str) -> list[dict[str, Any]]:
    """Train with the real model; returns the rows of the loss curve."""
    options = ["--launcher", launcher, "--nproc", size, "--storage", str(exp_dir / "ray")]
    status, _ = finish(launch(options, [TINY, str(prepared), str(exp_dir), "model.dropout=0"]))
    assert status == 0
    rows = read_metrics(exp_dir / "metrics.jsonl")
    return [row for row in rows if row["kind"] in ("train", "dev")]


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("torchrun", marks=NO_TORCHRUN),
        pytest.param("accelerate", marks=[NO_TORCHRUN, pytest.mark.extras]),
        pytest.param("ray", marks=pytest.mark.extras),
    ],
)
def test_two_processes_have_the_losses_of_one(
    tmp_path: Path, prepared: Path, one_process: list[dict[str, Any]], launcher: str
) -> None:
    two = losses_of(prepared, tmp_path, launcher, "2")
    assert len(two) == len(one_process) > 10
    for ours, theirs in zip(one_process, two, strict=True):
        assert (theirs["kind"], theirs["step"]) == (ours["kind"], ours["step"])
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)


def nodes(
    exp_dir: Path, *options: str, port: int, toy: Sequence[str] = (HOLD,)
) -> list[subprocess.Popen[str]]:
    """Two agents of torchrun, as two machines would start them, one process each."""
    shared = ["--launcher", "torchrun", "--num-nodes", "2", "--master-port", str(port), *options]
    ranks = ["--node-rank", "0"], ["--node-rank", "1"]
    return [launch([*shared, *rank], [TOY, str(exp_dir), *toy]) for rank in ranks]


def worker_of(process: subprocess.Popen[str]) -> int:
    """The training process below one launcher: it has no process below itself that trains."""
    found = [pid for pid in descendants(process.pid) if is_worker(pid)]
    return found[-1]


def is_worker(pid: int) -> bool:
    line = command_of(pid)
    return line.startswith("ray::RayTrainWorker") or (
        TOY in line and "torch.distributed.run" not in line and "accelerate" not in line
    )


@NO_TORCHRUN
def test_two_nodes_stop_when_a_process_dies_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    agents = nodes(tmp_path / "killed", port=free_port())
    wait_for_checkpoint(tmp_path / "killed")
    os.kill(worker_of(agents[1]), signal.SIGKILL)
    Gate(tmp_path / "killed").open()
    ended = [finish(agent) for agent in agents]
    assert [status for status, _ in ended] == [1, 1]
    assert "another process of the run has gone" in ended[0][1]
    assert [finish(agent)[0] for agent in nodes(tmp_path / "killed", port=free_port())] == [0, 0]
    assert differences(undisturbed, outcome(tmp_path / "killed")) == []


@NO_TORCHRUN
def test_two_nodes_start_a_dead_process_again(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    agents = nodes(tmp_path / "killed", "--max-restarts", "1", port=free_port())
    wait_for_checkpoint(tmp_path / "killed")
    os.kill(worker_of(agents[0]), signal.SIGKILL)
    Gate(tmp_path / "killed").open()
    ended = [finish(agent) for agent in agents]
    assert [status for status, _ in ended] == [0, 0]
    assert "going on from" in ended[0][1]
    assert differences(undisturbed, outcome(tmp_path / "killed")) == []


@NO_TORCHRUN
def test_a_signal_to_one_node_stops_both(tmp_path: Path) -> None:
    agents = nodes(tmp_path, port=free_port(), toy=["toy.pause=0.3", "train.epochs=200"])
    wait_for_metrics(tmp_path)
    agents[1].send_signal(signal.SIGHUP)
    assert [finish(agent)[0] for agent in agents] == [128 + signal.SIGTERM, 128 + signal.SIGHUP]
    assert CheckpointStore(tmp_path, 1).steps()


@pytest.mark.extras
def test_ray_starts_a_killed_process_again(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    options = ["--launcher", "ray", "--nproc", "2", "--max-restarts", "1"]
    options += ["--storage", str(tmp_path / "ray")]
    process = launch(options, [TOY, str(tmp_path / "killed"), HOLD])
    wait_for_checkpoint(tmp_path / "killed")
    os.kill(worker_of(process), signal.SIGKILL)
    Gate(tmp_path / "killed").open()
    status, output = finish(process)
    assert status == 0
    assert "going on from" in output
    assert differences(undisturbed, outcome(tmp_path / "killed")) == []


@pytest.mark.extras
def test_a_signal_to_ray_saves_and_leaves_with_its_status(tmp_path: Path) -> None:
    options = ["--launcher", "ray", "--nproc", "1", "--storage", str(tmp_path / "ray")]
    module = [TOY, str(tmp_path / "exp"), "toy.pause=0.5", "train.epochs=200"]
    process = launch(options, module)
    wait_for_metrics(tmp_path / "exp")
    process.send_signal(signal.SIGUSR1)
    assert finish(process)[0] == 128 + signal.SIGUSR1
    assert CheckpointStore(tmp_path / "exp", 1).steps()
    assert list((tmp_path / "ray").iterdir()) == []


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_gpus(text) for text in ("auto", "0", "1", "2")] == [2, 0, 1, 2]
    with pytest.raises(TrainingError, match=r"--ngpu 8: this machine has 2 GPU"):
        choose_gpus("8")
    with pytest.raises(TrainingError, match="want a number"):
        choose_gpus("two")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--launcher", "plain", "--nproc", "2"], "starts one process, not 2"),
        (["--num-nodes", "2", "--node-rank", "2"], "outside --num-nodes 2"),
        (["--nproc", "0"], "0 processes"),
    ],
)
def test_launches_that_cannot_be(options: list[str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        parse(["--ngpu", "0", *options, "-m", "module"])


def test_a_launcher_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="ray is not installed"):
        parse(["--ngpu", "0", "--launcher", "ray", "-m", "module"])


def test_accelerate_on_the_cpu_keeps_off_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert current_world().device.type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert current_world().device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "asks for DeepSpeed, train.strategy=ddp"),
        ("ACCELERATE_USE_FSDP", "true", "asks for FSDP, train.strategy=ddp"),
    ],
)
def test_what_accelerate_asks_for_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=message):
        check_accelerate(load_config(None, []), current_world(prefer_gpu=False))


def test_accelerates_precision_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with caplog.at_level("INFO"):
        config = load_config(None, ["train.strategy=fsdp"])
        check_accelerate(config, current_world(prefer_gpu=False))
    assert "mixed_precision=fp16 is not read; train.precision=auto holds" in caplog.text


def test_a_model_without_batch_normalisation_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = build_model(tiny_config().model, BINS, 5)
    with caplog.at_level("INFO"):
        assert synchronize_batchnorm(model, current_world(prefer_gpu=False)) is model
    assert "has no batch normalisation" in caplog.text
