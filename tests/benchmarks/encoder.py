"""What a 35-million-parameter LMU encoder spends its time on: ``python -m tests.benchmarks.encoder``.

Times are the least of several runs: of the wall clock, or with ``--cpu-time``, for one thread on a
busy machine, of the processor. The matrix rate is that of the largest of a few square
products; an encoder's matrix work is two operations for each weight of a linear layer and frame.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lmu_asr.config import ModelConfig
from lmu_asr.files import atomic_write_text
from lmu_asr.models.encoder import Encoder, build_encoder
from lmu_asr.models.gated_lmu import GatedLmu
from tests.benchmarks.machine import processor

FEATURES = 80
CONFIG = ModelConfig(
    dim=512, num_layers=9, ff_mult=4.0, subsampling_channels=256, dropout=0.0, bidirectional=False
)
MARK = "<!-- measured -->"
Clock = Callable[[], float]


def least_seconds(run: Callable[[], object], clock: Clock, repeats: int) -> float:
    """Least time of ``run`` after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def matrix_rate(clock: Clock) -> float:
    """Highest floating-point operations a second over a few square products, all threads."""
    rates = []
    for n in (1024, 2048, 3072):
        a, b = torch.randn(n, n), torch.randn(n, n)
        seconds = least_seconds(lambda a=a, b=b: a @ b, clock, 6)  # type: ignore[misc]
        rates.append(2 * n**3 / seconds)
    return max(rates)


def matrix_operations(encoder: Encoder, frames: int) -> float:
    """Operations of all linear layers over ``frames`` input frames, forward."""
    total = 0.0
    rate = encoder.subsampling_factor
    for stage in range(len(encoder.subsampling.stages)):
        weight = encoder.subsampling.stages[stage].product.weight  # type: ignore[union-attr]
        total += 2 * weight.numel() * frames / 2 ** (stage + 1)  # type: ignore[operator,arg-type]
    for layer in encoder.layers.modules():
        if isinstance(layer, nn.Linear):
            total += 2 * layer.weight.numel() * frames / rate
    return total


def memory_seconds(encoder: Encoder, x: Tensor, backward: bool, clock: Clock, n: int) -> float:
    """Time of all memories of ``encoder`` alone, at the shapes that features x give them."""
    memories = [module.memory for module in encoder.modules() if isinstance(module, GatedLmu)]
    frames = -(-x.shape[1] // encoder.subsampling_factor)
    u = torch.randn(x.shape[0], frames, memories[0].channels, requires_grad=backward)

    def run() -> None:
        for memory in memories:
            y, _ = memory(u)
            if backward:
                y.backward(torch.ones_like(y))

    with torch.inference_mode(not backward):
        return least_seconds(run, clock, n)


def training_step(encoder: Encoder, x: Tensor) -> None:
    """Forward and backward."""
    encoder.zero_grad(set_to_none=True)
    y, _ = encoder(x)
    y.backward(torch.ones_like(y))


def report(clock: Clock, repeats: int) -> str:
    """Measure and return a Markdown table."""
    torch.manual_seed(0)
    x = torch.randn(16, 1000, FEATURES)
    encoder = build_encoder(CONFIG, FEATURES)
    rate = matrix_rate(clock)
    work = matrix_operations(encoder, x.shape[0] * x.shape[1])
    million = sum(p.numel() for p in encoder.parameters()) / 1e6
    rows = [
        f"{million:.1f} M parameters, 16 x 1000 frames; matrix rate {rate / 1e9:.0f} GFLOP/s; "
        f"{processor()}, {'CPU' if clock is time.process_time else 'wall'} time:\n",
        "| | time | matrix operations over the matrix rate | share of the memory |",
        "|---|---|---|---|",
    ]
    for name, factor, run in (
        ("forward", 1, torch.inference_mode()(lambda: encoder(x))),
        ("forward + backward", 3, lambda: training_step(encoder, x)),
    ):
        full = least_seconds(run, clock, repeats)
        share = memory_seconds(encoder, x, factor == 3, clock, repeats) / full
        rows.append(
            f"| {name} | {full * 1e3:.0f} ms | {factor * work / full / rate:.0%} | {share:.1%} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    """Print the table; with --write, put it below the mark of that file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--write", type=Path, help="Markdown file to complete")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    text = report(clock, args.repeats)
    print(text)
    if args.write:
        head = args.write.read_text(encoding="utf-8").partition(MARK)[0]
        atomic_write_text(args.write, f"{head}{MARK}\n\n{text}")


if __name__ == "__main__":
    main()
