"""What a benchmark ran on, in words."""

from __future__ import annotations

from pathlib import Path

import torch


def processor() -> str:
    """Model, instruction set that torch uses, and threads of the CPU."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    words = models[:1]
    if hasattr(torch.backends, "cpu"):  # not before torch 2.1
        words.append(torch.backends.cpu.get_cpu_capability())
    return ", ".join([*words, f"{torch.get_num_threads()} thread(s)"])
