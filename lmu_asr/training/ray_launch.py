"""Ray Train as a launcher: TorchTrainer starts the processes, the run itself stays what it is.

Ray sets the environment that torchrun sets and joins the processes. A process that dies makes Ray
start all of them again, up to ``--max-restarts`` times; they go on from the run's own checkpoint.
Without ``RAY_ADDRESS`` a cluster of this machine alone is made and ended with the run: no
dashboard, no usage statistics, bound to the loopback address.
"""

from __future__ import annotations

import contextlib
import logging
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lmu_asr.errors import TrainingError
from lmu_asr.ray_cluster import joined_cluster
from lmu_asr.training.interrupt import SIGNALS, STOP_FILE, mark_stopped
from lmu_asr.training.launch_options import Launch


def train_with_ray(launch: Launch) -> int:
    """Train under Ray; returns the exit status.

    Args:
        launch: what to start; with several nodes ``RAY_ADDRESS`` must name a cluster.

    Raises:
        TrainingError: several nodes, but no cluster to find them in.
    """
    if launch.num_nodes > 1 and "RAY_ADDRESS" not in os.environ:
        raise TrainingError(
            "--launcher ray --num-nodes: start a cluster first (ray start --head; on the others "
            "ray start --address=HEAD:6379), then set RAY_ADDRESS=auto"
        )
    launch.storage.mkdir(parents=True, exist_ok=True)
    records = Path(tempfile.mkdtemp(prefix="run-", dir=launch.storage)).resolve()
    try:
        with joined_cluster(launch.processes, launch.gpus):
            return _fit(launch, records)
    finally:
        shutil.rmtree(records, ignore_errors=True)


def _fit(launch: Launch, records: Path) -> int:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    stop_file = records / "stop"
    own = {k: v for k, v in os.environ.items() if k.startswith("LMU_ASR_")}
    job = {
        "directory": str(Path.cwd()),
        "environment": {**own, STOP_FILE: str(stop_file)},
        "command": [launch.module, *launch.arguments],
        "gpus": launch.gpus,
    }
    trainer = TorchTrainer(
        _work,
        train_loop_config=job,
        torch_config=TorchConfig(backend="nccl" if launch.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=launch.processes * launch.num_nodes, use_gpu=launch.gpus > 0
        ),
        run_config=RunConfig(
            name=records.name,
            storage_path=str(records.parent),
            failure_config=FailureConfig(max_failures=launch.max_restarts),
        ),
    )
    with _signals_to(stop_file):
        try:
            trainer.fit()
        except Exception as error:
            logging.error("Ray Train: %s", str(error).strip().splitlines()[-1])
            return 1
    if stop_file.exists():
        mark_stopped()
    return 0


@contextlib.contextmanager
def _signals_to(stop_file: Path) -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and SIGINT ask the processes, wherever they are, to save and leave."""

    def ask(number: int, frame: FrameType | None) -> None:
        stop_file.touch()

    before = {n: signal.signal(n, ask) for n in (*SIGNALS, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(job: dict[str, Any]) -> None:
    """One process: run the module as ``python -m`` does."""
    root = logging.getLogger()
    for handler in list(root.handlers):  # Ray's own; the module sets up its logging as elsewhere
        root.removeHandler(handler)
    os.chdir(job["directory"])
    os.environ.update(job["environment"])
    if not job["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.argv = list(job["command"])
    try:
        runpy.run_module(job["command"][0], run_name="__main__")
    except SystemExit as left:
        if left.code:
            raise TrainingError(
                f"rank {os.environ['RANK']}: left with status {left.code}"
            ) from None
