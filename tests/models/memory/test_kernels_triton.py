"""The Triton kernels against a float64 scan, in Triton's interpreter where there is no GPU.

The interpreter is chosen when Triton is first imported, so the checks run in a process of their own:
``python -m tests.models.memory.test_kernels_triton`` does them all.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmu_asr.models.memory import module as memory
from lmu_asr.models.memory.module import discretize, legendre_memory

ROOT = Path(__file__).parents[3]


@pytest.mark.extras
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_equal_the_scan() -> None:
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.memory.test_kernels_triton"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") == len(CASES)


CASES = [
    # N, T, channels, thetas, Q, dtype
    (2, 1, 1, [4.0], 1, torch.float32),
    (2, 37, 6, [4.0, 30.0], 5, torch.float32),
    (1, 64, 40, [12.0], 16, torch.float32),
    (2, 50, 4, [4000.0, 9.0], 31, torch.float32),
    (2, 45, 3, [20.0], 8, torch.bfloat16),
]


def check(N: int, T: int, C: int, thetas: list[float], Q: int, dtype: torch.dtype) -> None:
    """Compare output, end state and all gradients with the sequential form in float64."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    Ad, Bd = discretize(Q, torch.tensor(thetas, device=device))
    shapes = [(N, T, C), (C, Q), (C,), (N, C, Q)]
    inputs = [torch.randn(x, device=device) for x in shapes]
    inputs[0] = inputs[0].to(dtype).float()
    lens = torch.randint(0, T + 1, (N,), device=device)
    lens[-1] = T
    direction = torch.randn(N, T, C, device=device), torch.randn(N, C, Q, device=device)

    def run(form: str, own: torch.dtype) -> list[Tensor]:
        kept = torch.float64 if own == torch.float64 else torch.float32
        leaves = [x.to(kept).requires_grad_() for x in inputs]
        u, readout, skip, state = leaves
        y, end = legendre_memory(
            u.to(own), Ad, Bd, readout=readout, skip=skip, state=state, lens=lens, form=form
        )
        loss = (y.to(kept) * direction[0].to(kept)).sum() + (end * direction[1].to(kept)).sum()
        return [y, end, *torch.autograd.grad(loss, leaves)]

    tolerance = 1e-6 if dtype == torch.float32 else 5e-3
    assert memory._chosen("triton", inputs[0], Ad, Bd, inputs[1]) == "triton"
    for ours, wanted in zip(run("triton", dtype), run("sequential", torch.float64), strict=True):
        ours, wanted = ours.detach(), wanted.detach()
        difference = float((ours.double() - wanted).norm() / wanted.norm().clamp(min=1e-30))
        assert difference < tolerance, (N, T, C, thetas, Q, dtype, difference)


if __name__ == "__main__":
    for case in CASES:
        check(*case)  # type: ignore[arg-type]
        print("passed", case)
