"""A tiny task that trains in seconds: a small model, synthetic utterances, and a process to kill.

``python -m tests.training.toy EXP_DIR [key=value ...]`` trains it, alone or under torchrun. Keys
besides those of the configuration: ``toy.pause`` (seconds slept in a step), ``toy.width`` of the
model, ``toy.rows`` of a global batch, ``toy.headroom`` (MiB that rank 0 may still take up after its
first step), and ``toy.hold`` (batches after which the run waits at its :class:`Gate`).
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmu_asr.checkpoints.identity import Identity, shaping_options
from lmu_asr.config import Config
from lmu_asr.config_files import load_config
from lmu_asr.data.batch import Batch
from lmu_asr.errors import LmuAsrError
from lmu_asr.models.ctc import CtcHead
from lmu_asr.models.head import Head, Targets
from lmu_asr.progress import setup_logging
from lmu_asr.training.launch.signals import RunStoppedError
from lmu_asr.training.loop import finish
from lmu_asr.training.loop.state import derive_seed, seed_everything
from lmu_asr.training.loop.step import GradientStep, TrainBatch
from lmu_asr.training.loop.trainer import Trainer
from lmu_asr.training.parallel.joining import joined_world
from lmu_asr.training.parallel.processes import World

F, V = 8, 5
OPTIONS = [
    "train.epochs=3",
    "train.lr=0.01",
    "train.warmup_steps=4",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "train.tensorboard=false",
    "model.dropout=0.1",
]


class ToyLang:
    """Letters a to d are tokens 1 to 4."""

    unit = "char"
    vocab_size = V

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        return ["abcd".index(symbol) + 1 for symbol in text.replace(" ", "")]

    def decode(self, ids: Iterable[int]) -> str:
        """Letters with spaces between, so that the word error rate counts letters."""
        return " ".join("abcd"[index - 1] for index in ids)


class ToyModel(nn.Module):
    """Two layers with dropout and a mean over past frames; padding changes no valid frame."""

    def __init__(self, dropout: float, width: int = 12) -> None:
        super().__init__()
        self.first = nn.Linear(F, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = CtcHead(width, V)

    def output_lens(self, lens: Tensor) -> Tensor:
        """As many frames as come in."""
        return lens

    def forward(self, x: Tensor, lens: Tensor, targets: Targets | None = None) -> Any:
        """As :meth:`SpeechModel.forward`."""
        hidden = self.dropout(torch.tanh(self.first(x)))
        count = torch.arange(1, x.shape[1] + 1)[:, None]
        hidden = self.norm(hidden + hidden.cumsum(dim=1) / count)
        return answer(self.head, self.head(hidden), lens, targets)


def answer(head: Head, outputs: Tensor, lens: Tensor, targets: Targets | None) -> Any:
    """Outputs and lengths, and before them with ``targets`` the losses."""
    if targets is None:
        return outputs, lens
    return head.loss(outputs, lens, targets), outputs, lens


class Gate:
    """Where a run waits until the test has done what it is there for, however long that takes.

    Args:
        exp_dir: of the run; the files of the gate lie beside it.
        batches: that a process may take before it waits; 0: the gate is open.
    """

    def __init__(self, exp_dir: Path, batches: int = 0) -> None:
        self.batches, self.taken = batches, 0
        self._count = exp_dir.with_name(f"{exp_dir.name}.taken")
        self._open = exp_dir.with_name(f"{exp_dir.name}.open")

    def take(self, rank: int) -> None:
        """Take one more batch; waits, with that batch in hand, where that is one too many."""
        if not self.batches:
            return
        if rank == 0:
            with open(self._count, "a", encoding="utf-8") as stream:
                stream.write("x")
        self.taken += 1
        while self.taken > self.batches and not self._open.exists():
            time.sleep(0.01)

    def open(self) -> None:
        """Let the run go on."""
        self._open.touch()

    def close(self) -> None:
        """Let the next process start from no batch."""
        self._open.unlink(missing_ok=True)
        self._count.unlink(missing_ok=True)

    def wait(self, batches: int, processes: Sequence[Any] = (), seconds: float = 300.0) -> None:
        """Wait until rank 0 has taken so many; fails where a process has ended before."""
        end = time.monotonic() + seconds
        while not self._count.exists() or self._count.stat().st_size < batches:
            ended = [p.exitcode for p in processes if p.exitcode is not None]
            if ended or time.monotonic() > end:
                raise RuntimeError(f"{self._count}: not {batches} batches; ended with {ended}")
            time.sleep(0.01)


class ToySource:
    """Global batches made from the seed, the epoch and their index, split over ranks."""

    def __init__(
        self,
        world: World,
        batches: int = 5,
        rows: int = 6,
        pause: float = 0.0,
        headroom: int = 0,
        gate: Gate | None = None,
    ) -> None:
        self.world, self.batches, self.rows, self.gate = world, batches, rows, gate
        self.pause, self.headroom = pause, headroom

    def transcripts(self) -> list[str]:
        """None: no loss here reads them."""
        return []

    def count_batches(self, epoch: int) -> int:
        """Global batches of an epoch."""
        return self.batches

    def train_batches(self, epoch: int, start_batch: int) -> Iterator[TrainBatch]:
        """This rank's share of each batch."""
        for index in range(start_batch, self.batches):
            time.sleep(self.pause)
            if self.gate is not None:
                self.gate.take(self.world.rank)
            if index == 1 and self.headroom and self.world.rank == 0:
                limit_memory(self.headroom)
            batch = make_batch(self.rows, "train", epoch, index)
            own = slice(self.world.rank, None, self.world.world_size)
            targets = [ToyLang().encode(text) for text in batch.texts]
            yield TrainBatch(
                (batch.features[own],),
                batch.feature_lens[own],
                targets[own],
                batch.ids[own],
                sum(batch.durations[own]),
            )

    def dev_batches(self) -> Iterator[Batch]:
        """Three batches of their own."""
        for index in range(3):
            time.sleep(self.pause)
            yield make_batch(4, "dev", 0, index)


def limit_memory(headroom_mib: int) -> None:
    """Let this process's address space grow by ``headroom_mib`` at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (used + headroom_mib * 2**20, resource.RLIM_INFINITY))


def make_batch(rows: int, *seed: Any) -> Batch:
    """Utterances whose frames show their letters, in noise."""
    generator = torch.Generator().manual_seed(derive_seed(*seed))
    texts, lens = [], []
    features = torch.randn(rows, 20, F, generator=generator) * 0.3
    for row in range(rows):
        letters = torch.randint(0, 4, (3,), generator=generator).tolist()
        texts.append("".join("abcd"[letter] for letter in letters))
        lens.append(int(torch.randint(12, 21, (1,), generator=generator)))
        for place, letter in enumerate(letters):
            features[row, 4 * place : 4 * place + 2, letter] += 2.0
    ids = ["-".join(map(str, seed)) + f"-{row}" for row in range(rows)]
    return Batch(features, torch.tensor(lens), texts, ids, [n / 100 for n in lens])


def make_trainer(
    exp_dir: Path,
    world: World,
    config: Config,
    source: ToySource | None = None,
    model: nn.Module | None = None,
    manifest: str = "toy",
) -> Trainer:
    """A trainer of the toy task."""
    seed_everything(config.seed, "model")
    model = model or ToyModel(config.model.dropout)
    identity = Identity(manifest, "abcd", shaping_options(config))
    source = source or ToySource(world)
    return Trainer(
        config, model, source, ToyLang(), identity, exp_dir, world, limit_by_hand(config)
    )


def limit_by_hand(config: Config) -> Callable[[GradientStep], None]:
    """What sizing does with ``train.frame_limit``."""

    def size(step: GradientStep) -> None:
        if config.train.frame_limit:
            step.limits = [(0, config.train.frame_limit)]

    return size


def toy_config(*options: str) -> Config:
    """Configuration of the toy task."""
    return load_config(None, [*OPTIONS, *options])


def main(argv: list[str]) -> int:
    """Train as one process of a run; no picture is drawn."""
    setup_logging()
    finish.plot_training = lambda *_: None
    exp_dir, *options = argv
    config = toy_config(*[option for option in options if not option.startswith("toy.")])
    toy = {k[4:]: float(v) for k, v in (o.split("=") for o in options) if k.startswith("toy.")}
    torch.set_num_threads(1)
    with joined_world(prefer_gpu=False) as world:
        headroom = int(toy.get("headroom", 0))
        rows = int(toy.get("rows", 6))
        gate = Gate(Path(exp_dir), int(toy.get("hold", 0)))
        source = ToySource(world, 5, rows, toy.get("pause", 0.0), headroom, gate)
        if headroom:  # freed tensors go back to the system at once
            ctypes.CDLL(None).mallopt(-3, 1 << 20)
        seed_everything(config.seed, "model")
        model = ToyModel(config.model.dropout, int(toy.get("width", 12)))
        try:
            make_trainer(Path(exp_dir), world, config, source, model).run()
        except RunStoppedError as stopped:
            print(f"stopped: {stopped}", flush=True)
        except LmuAsrError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def spawn(
    exp_dir: Path,
    options: Sequence[str],
    size: int = 1,
    entry: Callable[[list[str]], int | None] = main,
) -> list[BaseProcess]:
    """Start the processes of a run; forked from a server that has imported torch once.

    Args:
        exp_dir: where it trains.
        options: of the run.
        size: processes.
        entry: what each of them runs, given the directory and the options.
    """
    context = multiprocessing.get_context("forkserver")
    # optimisers import dynamo, and the real model on the tiny data is run too
    context.set_forkserver_preload([__name__, "torch._dynamo", "tests.training.tiny_run"])
    port = free_port()
    processes = []
    for rank in range(size):
        env = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        values = {name: str(value) for name, value in env.items()}
        arguments = (entry, values, [str(exp_dir), *options])
        processes.append(context.Process(target=_run, args=arguments))
        processes[-1].start()
    return list(processes)


def run(
    exp_dir: Path,
    *options: str,
    size: int = 1,
    entry: Callable[[list[str]], int | None] = main,
) -> None:
    """Train to the end in processes of their own; raises if one fails."""
    codes = ended(spawn(exp_dir, options, size, entry))
    if any(codes):
        raise RuntimeError(f"exit statuses {codes}")


def ended(processes: Sequence[BaseProcess], seconds: float = 300.0) -> list[int | None]:
    """Exit statuses, after as long as a busy machine needs; what goes on even then is killed."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def free_port() -> int:
    """A port that nothing listens on, and that the system gives to nobody who asks for any port."""
    draw = random.SystemRandom()  # tests beside this one must draw others
    for _ in range(100):
        port = draw.randrange(15_000, 30_000)  # below those of net.ipv4.ip_local_port_range
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port in a hundred draws")


def _run(entry: Callable[[list[str]], int | None], env: dict[str, str], argv: list[str]) -> None:
    os.environ.update(env)
    sys.exit(entry(argv))


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.exit(status)
