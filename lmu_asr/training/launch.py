"""Starts the processes of a training run: ``python -m lmu_asr.training.launch [options] -m MODULE ...``.

One entry point for plain Python, torchrun, Accelerate and Ray Train; all of them set the same
environment (:mod:`lmu_asr.training.distributed`) and run the same module with the same arguments.

torchrun answers SIGTERM with failure, even where every process has saved itself and left with
success, and SIGUSR1 ends torchrun alone and leaves its processes behind. Here both go to the
training processes themselves, which save and leave; torchrun then ends with their status.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch

from lmu_asr.errors import LmuAsrError, TrainingError
from lmu_asr.training.distributed import die_with_parent
from lmu_asr.training.interrupt import SIGNALS
from lmu_asr.training.launch_options import Launch
from lmu_asr.training.ray_launch import train_with_ray

MULTI_NODE_PORT = 29500  # one machine alone takes a free one
LAUNCHERS = ("auto", "plain", "torchrun", "accelerate", "ray")


def parse(argv: Sequence[str]) -> Launch:
    """Read the command line and check it against this machine.

    Raises:
        TrainingError: more GPUs than the machine has, a launcher that is not installed, several
            processes for plain Python, or a node rank outside the nodes.
    """
    args = _parser().parse_args(argv)
    gpus = choose_gpus(args.ngpu)
    processes = gpus or args.nproc
    launcher = args.launcher
    if launcher == "auto":
        launcher = "torchrun" if processes * args.num_nodes > 1 else "plain"
    launch = Launch(
        launcher=launcher,
        processes=processes,
        gpus=gpus,
        num_nodes=args.num_nodes,
        node_rank=args.node_rank,
        master_addr=args.master_addr,
        master_port=args.master_port or (MULTI_NODE_PORT if args.num_nodes > 1 else free_port()),
        max_restarts=args.max_restarts,
        storage=args.storage,
        module=args.command[0],
        arguments=tuple(args.command[1:]),
    )
    _check(launch)
    return launch


def choose_gpus(wanted: str) -> int:
    """GPUs to train on: all of the machine for ``auto``, else the number asked for.

    Raises:
        TrainingError: not a number, or more than there are.
    """
    if wanted != "auto" and not wanted.isdigit():
        raise TrainingError(f"--ngpu {wanted}: want a number or auto")
    if wanted == "0":
        return 0
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return found
    if int(wanted) > found:
        raise TrainingError(
            f"--ngpu {wanted}: this machine has {found} GPU(s) that torch {torch.__version__} can "
            "use: lower --ngpu, or train on the CPU with --ngpu 0 --nproc N"
        )
    return int(wanted)


def start(launch: Launch) -> int:
    """Run to the end and return the exit status (plain Python replaces this process)."""
    if launch.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if launch.launcher == "plain":
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *launch.module_command])
    if launch.launcher == "ray":
        return train_with_ray(launch)
    command = accelerate_command(launch) if launch.launcher == "accelerate" else None
    return supervise(command or torchrun_command(launch))


def torchrun_command(launch: Launch) -> list[str]:
    """The command that starts torchrun's agent of this machine."""
    options = {
        "nproc_per_node": launch.processes,
        "nnodes": launch.num_nodes,
        "node_rank": launch.node_rank,
        "master_addr": launch.master_addr,
        "master_port": launch.master_port,
        "max_restarts": launch.max_restarts,
    }
    pairs = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "torch.distributed.run", *pairs, *launch.module_command]


def accelerate_command(launch: Launch) -> list[str]:
    """The command of ``accelerate launch``; a configuration file of Accelerate is not read.

    Accelerate starts several processes by its launcher for GPUs alone, which is torchrun; without
    GPUs these processes join on the CPU all the same.
    """
    total = launch.processes * launch.num_nodes
    options = {
        "num_processes": total,
        "num_machines": launch.num_nodes,
        "machine_rank": launch.node_rank,
        "main_process_ip": launch.master_addr,
        "main_process_port": launch.master_port,
        "max_restarts": launch.max_restarts,
        "mixed_precision": "no",
        "dynamo_backend": "no",
    }
    pairs = [f"--{name}={value}" for name, value in options.items()]
    kind = ["--multi_gpu"] if total > 1 else [] if launch.gpus else ["--cpu"]
    program = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*program, *kind, *pairs, *launch.module_command]


def supervise(command: Sequence[str]) -> int:
    """Run a launcher that is torchrun or wraps it; signals go to its processes. Returns its status."""
    child = subprocess.Popen(
        command,
        start_new_session=True,  # a signal to the whole group must not reach torchrun
        preexec_fn=die_with_parent,
    )

    def forward(number: int, frame: FrameType | None) -> None:
        for pid in children(child.pid):
            os.kill(pid, signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, forward)
    signal.signal(signal.SIGINT, lambda *_: child.send_signal(signal.SIGINT))
    return child.wait()


def children(pid: int) -> list[int]:
    """Processes that ``pid`` has started and that are alive."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(text) for text in task.read_text().split()]
    return found


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lmu_asr.training.launch", allow_abbrev=False)
    parser.add_argument("--launcher", choices=LAUNCHERS, default="auto")
    parser.add_argument("--ngpu", default="auto", help="GPUs of this machine; 0: train on the CPU")
    parser.add_argument("--nproc", type=int, default=1, help="processes of this machine on a CPU")
    parser.add_argument("--num-nodes", type=int, default=1, help="machines")
    parser.add_argument("--node-rank", type=int, default=0, help="this machine, from 0")
    parser.add_argument("--master-addr", default="127.0.0.1", help="address of machine 0")
    parser.add_argument("--master-port", type=int, default=0, help="port of machine 0")
    parser.add_argument("--max-restarts", type=int, default=0, help="restarts after a failure")
    parser.add_argument("--storage", type=Path, default=Path("exp/.ray"), help="Ray's own records")
    parser.add_argument("-m", dest="command", nargs=argparse.REMAINDER, required=True)
    return parser


def _check(launch: Launch) -> None:
    total = launch.processes * launch.num_nodes
    if launch.processes < 1 or launch.num_nodes < 1:
        raise TrainingError(f"{launch.processes} processes on {launch.num_nodes} machines: want 1")
    if not 0 <= launch.node_rank < launch.num_nodes:
        raise TrainingError(
            f"--node-rank {launch.node_rank} is outside --num-nodes {launch.num_nodes}"
        )
    if launch.launcher == "plain" and total > 1:
        raise TrainingError(
            f"--launcher plain starts one process, not {total}: take torchrun, accelerate or ray"
        )
    if launch.launcher in ("accelerate", "ray") and not importlib.util.find_spec(launch.launcher):
        raise TrainingError(
            f"--launcher {launch.launcher}: {launch.launcher} is not installed: "
            "./utils/setup.sh --with-extras"
        )


if __name__ == "__main__":
    try:
        status = start(parse(sys.argv[1:]))
    except LmuAsrError as error:
        print(f"launch: error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)
