"""Products of two matrices, by oneDNN where it takes them: a tenth faster than torch's own."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from lmu_asr.torch_versions import has_linear_pointwise

SMALLEST = 1 << 20
"""Multiplications from which on oneDNN's longer start pays."""
BLOCK_BYTES = 8 << 20
"""Rows worked on together on a CPU: what the last level of cache holds beside the other operand."""


def matmul(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """Return ``a @ b (+ plus)`` of a (M, K), b (K, N), plus (M, N); not differentiable by autograd."""
    work = a.shape[0] * a.shape[1] * b.shape[1]
    if a.device.type != "cpu" or a.dtype != torch.float32 or work < SMALLEST or not has_onednn():
        return torch.mm(a, b) if plus is None else torch.addmm(plus, a, b)
    # X is (M, K), W is (N, K): rows of X in order are what it reads fastest
    if plus is None:
        return torch.ops.mkldnn._linear_pointwise(a.contiguous(), b.T, None, "none", [], "")
    return torch.ops.mkldnn._linear_pointwise(a.contiguous(), plus, b.T, None, "add")


@functools.cache
def has_onednn() -> bool:
    """True if torch was built with oneDNN and gives its linear product."""
    return has_linear_pointwise()


def row_blocks(x: Tensor, width: int) -> list[slice]:
    """Cut the rows of x so that a block of as many rows of ``width`` numbers fits into the cache."""
    rows = x.shape[0]
    if x.device.type != "cpu":
        return [slice(0, rows)]
    step = max(1, BLOCK_BYTES // (width * x.element_size()))
    count = max(1, round(rows / step))
    bounds = [rows * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]
