"""How fast a causal encoder streams: ``python -m tests.benchmarks.streaming [--write FILE]``.

One CPU thread unless ``--threads`` says otherwise. Real-time factor (RTF): seconds of computing a
second of speech; the median over chunks, features not included. Three forms of the same weights: as
trained (torch), packed float32, int8.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lmu_asr.config import ModelConfig
from lmu_asr.files import atomic_write_text
from lmu_asr.models.describe import describe
from lmu_asr.models.inference.quant import pack_for_streaming, quantize
from lmu_asr.models.system import SpeechModel, build_model
from tests.benchmarks.machine import processor

FEATURES, VOCABULARY = 80, 500
CONFIG = ModelConfig(dim=384, num_layers=12, ff_mult=2.0, bidirectional=False)
MARK = "<!-- measured -->"
clock = time.perf_counter


def median_seconds(step: Callable[[], None], repeats: int) -> float:
    """Median time of ``step`` after a tenth of warm-up."""
    times = []
    for i in range(repeats + repeats // 10 + 1):
        start = clock()
        step()
        if i > repeats // 10:
            times.append(clock() - start)
    return sorted(times)[len(times) // 2]


@torch.inference_mode()
def chunk_seconds(model: SpeechModel, frames: int, streams: int, repeats: int) -> float:
    """Median seconds of one step of ``frames`` frames in each of ``streams`` streams."""
    chunk = torch.randn(streams, frames, FEATURES)
    state = model.init_state(streams)

    def step() -> None:
        nonlocal state
        _, state = model.step(chunk, state)

    return median_seconds(step, repeats)


@torch.inference_mode()
def offline_seconds(model: SpeechModel, frames: int, repeats: int) -> float:
    """Median seconds of one whole utterance of ``frames`` frames."""
    x = torch.randn(1, frames, FEATURES)
    return median_seconds(lambda: model(x) and None, repeats)


def table(models: dict[str, SpeechModel], repeats: int) -> str:
    """Measure every form and return the table as Markdown."""
    rows = [
        "| weights | RTF, 40 ms chunks | RTF, 320 ms chunks | RTF, 20 s at once |"
        " 64 streams batched, 40 ms | over one by one |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in models.items():
        short = chunk_seconds(model, 4, 1, repeats)
        long = chunk_seconds(model, 32, 1, repeats)
        whole = offline_seconds(model, 2000, max(repeats // 20, 3))
        many = chunk_seconds(model, 4, 64, max(repeats // 5, 5))
        rows.append(
            f"| {name} | {short / 0.04:.3f} | {long / 0.32:.3f} | {whole / 20:.4f} |"
            f" {many * 1e3:.1f} ms | {64 * short / many:.1f} x |"
        )
    return "\n".join(rows)


def main() -> None:
    """Print the description and the table; with --write, put them below the mark of that file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--write", type=Path, help="Markdown file to complete")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine, one thread")
    args = parser.parse_args()
    global clock
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    plain = build_model(CONFIG, FEATURES, VOCABULARY).eval()
    models = {
        "as trained": plain,
        "packed float32": pack_for_streaming(plain),
        "int8": quantize(plain),
    }
    text = (
        f"```\n{describe(plain)}\n```\n\n{processor()}, torch {torch.__version__}, "
        f"{'CPU' if args.cpu_time else 'wall'} time, median of {args.repeats} chunks:\n\n{table(models, args.repeats)}\n"
    )
    print(text)
    if args.write:
        head = args.write.read_text(encoding="utf-8").partition(MARK)[0]
        atomic_write_text(args.write, f"{head}{MARK}\n\n{text}")


if __name__ == "__main__":
    main()
