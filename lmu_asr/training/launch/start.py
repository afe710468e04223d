"""Starts the processes of a training run: ``python -m lmu_asr.training.launch.start [options] -m MODULE ...``.

One entry point for plain Python, torchrun, Accelerate and Ray Train; all of them set the same
environment (:mod:`lmu_asr.training.parallel.processes`) and run the same module with the same arguments.

A guard stands before all of them (:mod:`lmu_asr.guard`): launchers answer a signal with failure, or
end and leave their processes behind, so it does not reach them. The training processes hear of it by
a file, save and leave with success; the launcher then ends, and the guard's status names the signal.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from lmu_asr.errors import LmuAsrError, TrainingError
from lmu_asr.guard import STOP_FILE, guarded
from lmu_asr.training.launch.options import STORE_FILE, Launch
from lmu_asr.training.launch.ray_train import train_with_ray

MULTI_NODE_PORT = 29500  # one machine alone needs none
LAUNCHERS = ("auto", "plain", "torchrun", "accelerate", "ray")


def parse(argv: Sequence[str]) -> Launch:
    """Read the command line and check it against this machine.

    Raises:
        TrainingError: more GPUs than the machine has, a launcher that is not installed, several
            processes for plain Python, or a node rank outside the nodes.
    """
    args = _parser().parse_args(argv)
    gpus = choose_gpus(args.ngpu)
    # one process a GPU; --nproc counts on a CPU alone
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
        master_port=args.master_port or MULTI_NODE_PORT,
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
    import torch  # seconds, which a run on the CPU would wait twice before it begins

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
    """Train; this process becomes the launcher. Ray, which is called, returns an exit status."""
    if launch.gpus == 0:
        # set before torch is imported in the processes, which then find no GPU at all
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    on_cluster = launch.launcher == "ray" and "RAY_ADDRESS" in os.environ
    if launch.num_nodes == 1 and not on_cluster:
        keep_to_this_machine()
    if launch.launcher == "ray":
        return train_with_ray(launch)
    commands = {"torchrun": torchrun_command, "accelerate": accelerate_command}
    make = commands.get(launch.launcher, lambda launch: [sys.executable, *launch.module_command])
    command = make(launch)
    # exec drops what Python has buffered
    sys.stdout.flush()
    os.execv(command[0], command)


def keep_to_this_machine() -> None:
    """Let the processes meet in files and talk over the loopback interface.

    The stores of torch listen on all interfaces, and end the run when a stranger talks to them.
    """
    folder = Path(os.environ[STOP_FILE]).parent
    os.environ[STORE_FILE] = str(folder / "store")
    os.environ["PET_RDZV_ENDPOINT"] = str(folder / "rendezvous")  # options of torchrun, which
    os.environ["PET_LOCAL_ADDR"] = "127.0.0.1"  # accelerate has no names for
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "")
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)


def rendezvous_options(launch: Launch, address: str, port: str, rank: str) -> dict[str, object]:
    """Options that tell torchrun where its agents meet: in a file, or with the agent of machine 0.

    Args:
        launch: what to start.
        address: name of the option for the address of machine 0.
        port: for its port.
        rank: for this machine's number.
    """
    if launch.num_nodes == 1:
        return {"rdzv_backend": "c10d", "rdzv_conf": "store_type=file"}
    return {address: launch.master_addr, port: launch.master_port, rank: launch.node_rank}


def torchrun_command(launch: Launch) -> list[str]:
    """The command that starts torchrun's agent of this machine."""
    options = {
        "nproc_per_node": launch.processes,
        "nnodes": launch.num_nodes,
        **rendezvous_options(launch, "master_addr", "master_port", "node_rank"),
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
        **rendezvous_options(launch, "main_process_ip", "main_process_port", "machine_rank"),
        "max_restarts": launch.max_restarts,
        "mixed_precision": "no",
        "dynamo_backend": "no",
    }
    pairs = [f"--{name}={value}" for name, value in options.items()]
    kind = ["--multi_gpu"] if total > 1 else [] if launch.gpus else ["--cpu"]
    program = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*program, *kind, *pairs, *launch.module_command]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lmu_asr.training.launch.start", allow_abbrev=False
    )
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


def main() -> int:
    """Read the command line and train; returns the exit status."""
    try:
        return start(parse(sys.argv[1:]))
    except LmuAsrError as error:
        print(f"launch: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(guarded(main, "training", saves=True))
