"""The depthwise memory with a read-out in one Triton kernel each way, for CUDA.

On the CPU the same kernels run in Triton's interpreter (``TRITON_INTERPRET=1``), for tests.

Legend: N batch, T frames, C channels, G groups of one theta, Q order, L chunk length.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmu_asr.models.memory.kernels.chunked import readout_output, state_at
from lmu_asr.models.memory.kernels.operators import chunk_operators
from lmu_asr.models.memory.legendre import LmuError

CHUNK = 16
BLOCK_CHANNELS = 32
WARPS = 8
ORDERS = 32
"""Beyond this order a block's read-outs no longer fit into registers."""


@functools.lru_cache(maxsize=1)
def kernels() -> ModuleType | None:
    """Return the module of kernels, or None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("lmu_asr.models.memory.kernels.triton_kernels")


def available(device: torch.device) -> bool:
    """Tell whether the kernels run there: on CUDA, or on the CPU under Triton's interpreter."""
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    return (device.type == "cuda" or interpreted) and kernels() is not None


def triton_memory(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    state: Tensor,
    lens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Evaluate a read-out of the memory; shapes as in ``memory.legendre_memory``.

    u may be bfloat16; read-outs and states are float32.

    Raises:
        LmuError: Triton is not installed.
    """
    N, T, C = u.shape
    ops = chunk_operators(Ad, Bd, CHUNK, torch.float32)
    output = readout_output(ops, readout.float(), None if skip is None else skip.float())
    if lens is None:
        lens = torch.full((N,), T, device=u.device)
    # the kernel trusts them: beyond T it would read another sequence
    lens = lens.clamp(0, T)
    y, tail = _Fused.apply(u, state, lens, ops.change, output)
    frames = (lens // CHUNK * CHUNK)[:, None] + torch.arange(CHUNK, device=u.device)
    rest = u.gather(1, frames.clamp(max=T - 1)[:, :, None].expand(N, CHUNK, C)).float()
    rest = rest.masked_fill((frames >= lens[:, None])[:, :, None], 0.0)  # the last, partial chunks
    x = torch.cat([rest.permute(2, 0, 1), tail.transpose(0, 1)], dim=2).unsqueeze(2)
    return y, state_at(x, tail.transpose(0, 1), ops, lens % CHUNK, CHUNK - 1)


class _Fused(torch.autograd.Function):
    """(u, state, lens, change, output) -> (y, states before the last, partial chunks)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, u: Tensor, state: Tensor, lens: Tensor, change: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor]:
        u, state, output = u.contiguous(), state.contiguous(), output.contiguous()
        y, tail = torch.empty_like(u), torch.empty_like(state)
        _launch("forward_kernel", u, change, [u, y, state, tail, lens, change, output])
        ctx.save_for_backward(u, state, lens, change, output)
        return y, tail

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_y: Tensor, grad_tail: Tensor
    ) -> tuple[Tensor | None, ...]:
        u, state, lens, change, output = ctx.saved_tensors
        dy, dtail = grad_y.contiguous(), grad_tail.contiguous()
        du, dstate = torch.empty_like(u), torch.empty_like(state)
        _launch("input_gradient_kernel", u, change, [dy, du, dtail, dstate, lens, change, output])
        grad_output = None
        if ctx.needs_input_grad[4]:
            sums = output.new_zeros(u.shape[0], *output.shape)
            _launch("readout_gradient_kernel", u, change, [u, dy, state, lens, change, sums])
            grad_output = sums.sum(0)
        return du, dstate, None, None, grad_output


def _launch(name: str, u: Tensor, change: Tensor, tensors: list[Tensor]) -> None:
    """Run a kernel with one program a sequence and block of channels."""
    module = kernels()
    if module is None:
        raise LmuError("the Triton form was asked for, but Triton is not installed")
    N, T, C = u.shape
    G, W, Q = change.shape
    tiles = -(-(C // G) // BLOCK_CHANNELS)
    # tl.dot wants at least 16 rows and powers of two
    padded = max(16, 1 << (Q - 1).bit_length())
    getattr(module, name)[(N, G * tiles)](
        *tensors, T, C, C // G, tiles, L=W - Q, Q=Q, QP=padded, BC=BLOCK_CHANNELS, num_warps=WARPS
    )
