"""Ray Train as a launcher: TorchTrainer starts the processes, the run itself stays what it is.

Ray sets the environment that torchrun sets and joins the processes; on one machine they join by
themselves, in a file, since Ray's way would listen on all interfaces. A process that dies makes Ray
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
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmu_asr.errors import TrainingError
from lmu_asr.guard import SIGNALS, STOP_FILE, STOPPED, mark_stopped, watch_stop_file
from lmu_asr.ray_cluster import joined_cluster
from lmu_asr.training.launch.options import STORE_FILE, Launch


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
    stop = _Stop(records)
    watch_stop_file(stop.ask)
    try:
        with joined_cluster(launch.processes, launch.gpus):
            return _fit(launch, records, stop)
    finally:
        shutil.rmtree(records, ignore_errors=True)


class _Stop:
    """Passes the request to stop on to the processes, by a file that those of all machines see."""

    def __init__(self, records: Path) -> None:
        self.records, self.file = records, records / "stop"
        self.training = False

    def ask(self) -> None:
        """Ask the processes; while there are none, leave: the guard ends what Ray has started."""
        if not self.training:
            shutil.rmtree(self.records, ignore_errors=True)
            os._exit(0)
        self.file.touch()

    @contextlib.contextmanager
    def taking_signals(self) -> Iterator[None]:
        """Let signals to this process ask too, in the place of Ray's own answer to them."""
        wanted = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {n: signal.signal(n, lambda *_: self.ask()) for n in wanted}
        self.training = True
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _fit(launch: Launch, records: Path, stop: _Stop) -> int:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # Ray's workers have the environment of the cluster, not of this process
    own = {k: v for k, v in os.environ.items() if k.startswith("LMU_ASR_")}
    job = {
        "directory": str(Path.cwd()),
        "environment": {**own, STOP_FILE: str(stop.file)},
        "command": [launch.module, *launch.arguments],
        "gpus": launch.gpus,
    }
    trainer = TorchTrainer(
        _work,
        train_loop_config=job,
        torch_config=_torch_config(launch),
        scaling_config=ScalingConfig(
            num_workers=launch.processes * launch.num_nodes, use_gpu=launch.gpus > 0
        ),
        run_config=RunConfig(
            name=records.name,
            storage_path=str(records.parent),
            failure_config=FailureConfig(max_failures=launch.max_restarts),
        ),
    )
    with stop.taking_signals():
        try:
            trainer.fit()
        except Exception as error:
            # the last line of the traceback that Ray hands on is the error itself
            logging.error("Ray Train: %s", str(error).strip().splitlines()[-1])
            return 1
    if stop.file.exists() or stop.file.with_name(STOPPED).exists():
        mark_stopped()
    return 0


def _torch_config(launch: Launch) -> Any:
    """How the processes join: over machines by Ray, on one machine by themselves, in a file."""
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig

    if STORE_FILE not in os.environ:
        return TorchConfig(backend="nccl" if launch.gpus else "gloo")

    class Alone(Backend):
        share_cuda_visible_devices = True  # each takes the one of its local rank

    class Local(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Alone

    return Local(backend="gloo")


def _describe_process() -> None:
    """Set what torchrun would; all processes of one attempt meet in one file, of its own."""
    from ray import train
    from ray.train.collective import broadcast_from_rank_zero

    context = train.get_context()
    os.environ["RANK"] = str(context.get_world_rank())
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    os.environ["WORLD_SIZE"] = str(context.get_world_size())
    os.environ["LOCAL_WORLD_SIZE"] = str(context.get_local_world_size())
    os.environ[STORE_FILE] += f"-{broadcast_from_rank_zero(uuid.uuid4().hex)}"


def _work(job: dict[str, Any]) -> None:
    """One process: run the module as ``python -m`` does."""
    root = logging.getLogger()
    for handler in list(root.handlers):  # Ray's own; the module sets up its logging as elsewhere
        root.removeHandler(handler)
    # Ray starts its workers in directories of their own
    os.chdir(job["directory"])
    os.environ.update(job["environment"])
    if not job["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if STORE_FILE in job["environment"]:
        _describe_process()
    sys.argv = list(job["command"])
    try:
        runpy.run_module(job["command"][0], run_name="__main__")
    except SystemExit as left:
        if left.code:
            raise TrainingError(
                f"rank {os.environ['RANK']}: left with status {left.code}"
            ) from None
