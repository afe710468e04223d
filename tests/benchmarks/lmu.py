"""Time every evaluation of the Legendre memory beside its peers, and print tables.

python -m tests.benchmarks.lmu [--quick] [--device cuda] [--threads N] [--clock cpu]
    [--frames 250 1000 ...] [--boards layer depthwise memory choose]
    [--pytorch-lmu DIR] [--keras-lmu DIR] [--json FILE] [--write docs/benchmarks-lmu.md]

Boards: "layer", the parallel LMU (input 80, order 256, theta 1000, hidden 512) and whole-layer peers;
"depthwise", the speech block's memory (512 channels, order 16, 4 windows); "memory", the memory
alone; "choose", which form wins at which shape, as rows of the chooser's table.
All candidates of a board are measured in turn, round after round, and the least time is kept.
The limit is what the device's measured matrix rate and copy bandwidth allow: the larger of the
times of the products and of the transfers that no implementation avoids.
``--clock cpu`` counts processor time of one thread, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lmu_asr.models.lmu import LMU, ParallelLMU
from lmu_asr.models.memory.module import KERNEL_ORDERS, LegendreMemory
from tests.benchmarks.lmu_tables import (
    CONV,
    FFT,
    RAGGED,
    SCAN,
    Found,
    Measured,
    claims,
    show,
    show_choice,
    write,
)
from tests.benchmarks.machine import processor

BATCH, INPUT, HIDDEN, ORDER, THETA = 16, 80, 512, 256, 1000.0
CHANNELS, DEPTH_ORDER, WINDOWS = 512, 16, (8.0, 32.0, 64.0, 128.0)
FRAMES = (250, 1000, 3000, 10000, 30000)
SEQUENTIAL_LIMIT, FFT_LIMIT = 1000, 10000
CHOICES = (
    (1, 16), (1, 64), (1, 256), (8, 128), (16, 64), (64, 8), (64, 32), (512, 8), (512, 16),
)  # fmt: skip

Run = Callable[[bool], None]
"""Runs forward, and backward if asked."""


@dataclass
class Bench:
    """Where and how long to measure."""

    device: torch.device
    clock: str
    rounds: int
    batch: int = BATCH
    rate: float = 1.0
    bandwidth: float = 1.0

    def now(self) -> float:
        """Seconds on the chosen clock, after all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.thread_time() if self.clock == "cpu" else time.perf_counter()

    def measure_limits(self) -> None:
        """Measure FLOP/s of large products and bytes/s of a copy."""
        for n in (1024, 2048, 3072):
            a = torch.randn(n, n, device=self.device)
            seconds = self._least(lambda a=a: torch.mm(a, a))  # type: ignore[misc]
            self.rate = max(self.rate, 2 * n**3 / seconds)
        b = torch.randn(2**24, device=self.device)
        out = torch.empty_like(b)
        self.bandwidth = 8 * b.numel() / self._least(lambda: out.copy_(b))

    def limits(self, flops: float, read: float) -> tuple[float, float]:
        """Times in ms that forward, and forward and backward, cannot go below."""
        forward = max(flops / self.rate, read / self.bandwidth)
        both = max(3 * flops / self.rate, 2.5 * read / self.bandwidth)
        return 1e3 * forward, 1e3 * both

    def compare(self, frames: int, makers: dict[str, Callable[[], Run]]) -> list[Measured]:
        """Measure all candidates in turn for some rounds."""
        runs = {name: make() for name, make in makers.items()}
        rows = {name: Measured(name, frames) for name in runs}
        for name, run in runs.items():
            rows[name].peak = self._peak(run)
        for _ in range(self.rounds):
            for name, run in runs.items():
                row = rows[name]
                start = self.now()
                run(False)
                middle = self.now()
                run(True)
                row.forward = min(row.forward, 1e3 * (middle - start))
                row.both = min(row.both, 1e3 * (self.now() - middle))
        return list(rows.values())

    def _least(self, call: Callable[[], object]) -> float:
        least = float("inf")
        for _ in range(3 + self.rounds):
            start = self.now()
            call()
            least = min(least, self.now() - start)
        return least

    def _peak(self, run: Run) -> float:
        """Return the MiB that forward and backward take at most, after a first run."""
        run(True)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(True)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        try:
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier runs left
            Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
        except OSError:
            return float("nan")
        before = _status("VmRSS")
        run(True)
        return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _train(module: Callable[..., Any], x: Tensor, gradient: Tensor, *args: Any) -> Run:
    def run(backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            y = module(x, *args)
            y = y[0] if isinstance(y, tuple) else y
        if backward:
            y.backward(gradient)

    return run


def layer_board(bench: Bench, T: int, peers: dict[str, ModuleType]) -> list[Measured]:
    """The parallel LMU as a layer, with every evaluation, and other layers of its width."""
    device = bench.device
    x = torch.randn(bench.batch, T, INPUT, device=device)
    gradient = torch.randn(bench.batch, T, HIDDEN, device=device)
    lens = torch.randint(T // 2, T + 1, (bench.batch,), device=device)

    def layer(form: str, *args: Any) -> Callable[[], Run]:
        return lambda: _train(
            ParallelLMU(INPUT, HIDDEN, ORDER, THETA, form).to(device), x, gradient, *args
        )

    def plain(make: Callable[[], nn.Module]) -> Callable[[], Run]:
        return lambda: _train(make().to(device), x, gradient)

    makers: dict[str, Callable[[], Run]] = {
        "its products alone": lambda: _products(bench, T, x, gradient),
        "parallel LMU, projection folded": layer("auto"),
        RAGGED: layer("auto", lens),
    }
    if T <= FFT_LIMIT:
        makers["parallel LMU, FFT"] = layer("fft")
    if T <= SEQUENTIAL_LIMIT:
        makers["LMU cell (hidden feedback)"] = plain(lambda: LMU(INPUT, HIDDEN, ORDER, THETA))
        makers["nn.LSTM"] = plain(lambda: nn.LSTM(INPUT, HIDDEN, batch_first=True))
        makers["nn.GRU"] = plain(lambda: nn.GRU(INPUT, HIDDEN, batch_first=True))
    makers["nn.Conv1d, width 9"] = lambda: _convolution(
        nn.Conv1d(INPUT, HIDDEN, 9, padding=4).to(device), x, gradient
    )
    makers.update(_peer_layers(bench, T, x, gradient, peers))
    rows = bench.compare(T, makers)
    samples = bench.batch * T
    for row in rows:
        row.limits = bench.limits(
            2 * samples * (ORDER + INPUT) * HIDDEN, 4 * samples * (INPUT + HIDDEN)
        )
    return rows


def _products(bench: Bench, T: int, x: Tensor, gradient: Tensor) -> Run:
    """The input and read-out products, with a memory that is already there."""
    encoder, dense = nn.Linear(INPUT, 1), nn.Linear(INPUT + ORDER, HIDDEN)
    encoder, dense = encoder.to(bench.device), dense.to(bench.device)
    both = torch.randn(bench.batch, T, INPUT + ORDER, device=bench.device, requires_grad=True)

    def run(backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            u, y = encoder(x), dense(both)
        if backward:
            torch.autograd.backward([y, u], [gradient, torch.ones_like(u)])

    return run


def _convolution(module: nn.Module, x: Tensor, gradient: Tensor) -> Run:
    x, gradient = (z.transpose(1, 2).contiguous() for z in (x.detach(), gradient))
    return _train(module, x.requires_grad_(), gradient)


def _peer_layers(
    bench: Bench, T: int, x: Tensor, gradient: Tensor, peers: dict[str, ModuleType]
) -> Iterator[tuple[str, Callable[[], Run]]]:
    if "pytorch-lmu" in peers:
        module = peers["pytorch-lmu"]
        if T <= SEQUENTIAL_LIMIT:
            cell = lambda: module.LMU(INPUT, HIDDEN, ORDER, int(THETA)).to(bench.device)  # noqa: E731
            yield SCAN, lambda: _train(cell(), x, gradient)
        if T <= FFT_LIMIT:
            fft = lambda: module.LMUFFT(INPUT, HIDDEN, ORDER, T, int(THETA)).to(bench.device)  # noqa: E731
            yield FFT, lambda: _train(fft(), x, gradient)
    if "keras-lmu" in peers and T <= SEQUENTIAL_LIMIT:
        yield "keras-lmu LMUFeedforward", lambda: _keras(peers["keras-lmu"], x)


def _keras(module: ModuleType, x: Tensor) -> Run:
    import tensorflow as tf

    layer = module.LMUFeedforward(
        memory_d=1, order=ORDER, theta=THETA, return_sequences=True,
        hidden_cell=tf.keras.layers.Dense(HIDDEN, activation="relu"), input_to_hidden=True,
    )  # fmt: skip
    batch = tf.constant(x.detach().cpu().numpy())

    def run(backward: bool) -> None:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(batch))
        if backward:
            tape.gradient(total, layer.trainable_variables)

    return run


def depthwise_board(bench: Bench, T: int, _: dict[str, ModuleType]) -> list[Measured]:
    """The speech block's memory and other ways to mix each channel over time."""
    device = bench.device
    x = torch.randn(bench.batch, T, CHANNELS, device=device, requires_grad=True)
    gradient = torch.randn(bench.batch, T, CHANNELS, device=device)

    def memory(form: str) -> Callable[[], Run]:
        return lambda: _train(
            LegendreMemory(CHANNELS, DEPTH_ORDER, WINDOWS, form=form).to(device), x, gradient
        )

    forms = ["auto", "chunked"]
    if T <= 3000:
        forms.append("fft")
    if T <= 1000:
        forms.append("sequential")
    makers = {f"memory, {form}": memory(form) for form in forms}
    makers[CONV] = lambda: _convolution(
        nn.Conv1d(CHANNELS, CHANNELS, 31, padding=15, groups=CHANNELS).to(device), x, gradient
    )
    makers["nn.Linear 512 x 512"] = lambda: _train(
        nn.Linear(CHANNELS, CHANNELS).to(device), x, gradient
    )
    rows = bench.compare(T, makers)
    samples = bench.batch * T * CHANNELS
    for row in rows:
        row.limits = bench.limits(0.0, 8 * samples)
    return rows


def memory_board(bench: Bench, T: int, _: dict[str, ModuleType]) -> list[Measured]:
    """One channel, order 256: the memory itself, formed."""
    return _forms(bench, 1, ORDER, (THETA,), T, readout=False)


def _forms(
    bench: Bench, C: int, Q: int, thetas: tuple[float, ...], T: int, readout: bool
) -> list[Measured]:
    x = torch.randn(bench.batch, T, C, device=bench.device, requires_grad=True)
    shape = (bench.batch, T, C) if readout else (bench.batch, T, C, Q)
    gradient = torch.randn(shape, device=bench.device)

    def memory(form: str, chunk: int | None) -> Callable[[], Run]:
        return lambda: _train(
            LegendreMemory(
                C, Q, thetas, readout=readout, skip=readout, form=form, chunk_size=chunk
            ).to(bench.device),
            x,
            gradient,
        )

    makers = {"auto": memory("auto", None)}
    makers |= {f"chunked, {L} frames": memory("chunked", L) for L in (16, 32, 64) if L <= T}
    if T <= FFT_LIMIT and bench.batch * T * C * (1 if readout else Q) < 3e7:
        makers["fft"] = memory("fft", None)
    if T <= 64:
        makers["sequential"] = memory("sequential", None)
    kernel = "compiled" if bench.device.type == "cpu" else "triton"
    if readout and Q <= KERNEL_ORDERS:
        makers[kernel] = memory(kernel, None)
    rows = bench.compare(T, makers)
    samples = bench.batch * T
    for row in rows:
        row.limits = bench.limits(0.0, 4 * samples * C * (2 if readout else 1 + Q))
    return rows


def choose_board(bench: Bench, _: int, __: dict[str, ModuleType]) -> list[Measured]:
    """Return all forms for a grid of shapes; :func:`show_choice` says which win."""
    everything: list[Measured] = []
    for C, Q in CHOICES:
        for T in (1, 16, 128, 1000):
            for readout in (True, False):
                if not readout and C * Q * T > 2e5 * 16:
                    continue
                rows = _forms(bench, C, Q, (64.0,), T, readout)
                for row in rows:
                    row.extra = {"channels": C, "order": Q, "readout": readout}
                everything += rows
    return everything


BOARDS = {
    "layer": layer_board,
    "depthwise": depthwise_board,
    "memory": memory_board,
    "choose": choose_board,
}


def describe(bench: Bench) -> str:
    """Machine, versions, clock and measured limits in one line."""
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else processor()
    return (
        f"{name}, torch {torch.__version__}, {bench.clock} clock, least of {bench.rounds} rounds: "
        f"{bench.rate / 1e9:.0f} GFLOP/s, copy {bench.bandwidth / 1e9:.1f} GB/s."
    )


def _load_peers(options: argparse.Namespace) -> dict[str, ModuleType]:
    peers = {}
    if options.pytorch_lmu:
        found = sorted(options.pytorch_lmu.rglob("lmu.py"))
        if not found:
            raise SystemExit(f"no lmu.py under {options.pytorch_lmu}")
        spec = importlib.util.spec_from_file_location("peer_pytorch_lmu", found[0])
        if spec is None or spec.loader is None:
            raise SystemExit(f"cannot import {found[0]}")
        peers["pytorch-lmu"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(peers["pytorch-lmu"])
    if options.keras_lmu:
        sys.path.insert(0, str(options.keras_lmu))
        peers["keras-lmu"] = importlib.import_module("keras_lmu")
    return peers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="1000 frames, 3 rounds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, nargs="+", default=list(FRAMES))
    parser.add_argument("--boards", nargs="+", choices=tuple(BOARDS), default=list(BOARDS)[:3])
    parser.add_argument("--pytorch-lmu", type=Path, help="directory of the pytorch-lmu sources")
    parser.add_argument("--keras-lmu", type=Path, help="directory that holds the package keras_lmu")
    parser.add_argument("--json", type=Path, help="write all rows here too")
    parser.add_argument("--write", type=Path, help="Markdown file to complete at its marks")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1 if options.clock == "cpu" else options.threads)
    bench = Bench(
        torch.device(options.device), options.clock, 3 if options.quick else options.rounds
    )
    bench.measure_limits()
    peers = _load_peers(options)
    found: Found = {}
    texts = [describe(bench)]
    print(texts[0])
    rows_of: list[dict[str, Any]] = []
    for board in options.boards:
        for T in [1000] if options.quick or board == "choose" else options.frames:
            rows = BOARDS[board](bench, T, peers)
            title = f"{board}, batch {bench.batch}" + ("" if board == "choose" else f", {T} frames")
            texts.append(f"### {title}")
            texts.append(show_choice(rows) if board == "choose" else show(rows))
            print("", *texts[-2:], sep="\n\n", flush=True)
            rows_of += [{"board": board, **vars(row)} for row in rows]
            if board != "choose":
                found |= {(board, row.name, T): row for row in rows}
    if found:
        texts.insert(1, claims(found))
        print("", texts[1], sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps(rows_of, indent=1))
    if options.write:
        write(options.write, "choice" if options.boards == ["choose"] else "measured", texts)


if __name__ == "__main__":
    main()
