"""The depthwise memory with a read-out in one compiled pass on the CPU, forward and backward.

Legend: N batch, T frames, C channels, G groups of one theta, Q order, L chunk length.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmu_asr.models.kernels.operators import ChunkOperators, chunk_operators
from lmu_asr.models.legendre import LmuError
from lmu_asr.models.native.build import load_library

CHUNK = 8
LANES = 32
ALIGNMENT = 64


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the kernel, built at the first call, or None where it cannot be built."""
    found = load_library(Path(__file__).with_name("legendre.cpp"))
    for kind in ("float", "double") if found is not None else ():
        for name, count in (("forward", 9), ("backward", 13)):
            function = getattr(found, f"legendre_{name}_{kind}")
            function.argtypes = [ctypes.c_void_p] * (count + 1) + [ctypes.c_int]
            function.restype = None
    return found


def available() -> bool:
    """Tell whether the kernel is there; the first call builds it."""
    return library() is not None


def compiled_memory(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    state: Tensor,
    lens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Evaluate a read-out of the memory; shapes as in ``memory.legendre_memory``."""
    operators: list[Tensor] = []
    for length in (CHUNK, 1):
        ops = chunk_operators(Ad, Bd, length, u.dtype)
        operators += [ops.change, packed_readout(ops, readout, skip)]
    y, last = CompiledMemory.apply(u, state, lens, *operators)
    return y, last


def packed_readout(ops: ChunkOperators, readout: Tensor, skip: Tensor | None) -> Tensor:
    """Return [h | R] of every channel by tiles, (tiles, L + Q * L, LANES), as the kernel reads it.

    h (L,) is the impulse response of the read-out, skip included; R (Q, L) its rows in the state.
    """
    C, Q = readout.shape
    G, L = ops.impulse.shape[:2]
    per_group = readout.view(G, C // G, Q)
    response = per_group @ ops.impulse.transpose(1, 2)  # (G, c, L)
    if skip is not None:
        response = response + F.pad(skip.view(G, C // G, 1), (0, L - 1))
    lifted = ops.powers.permute(0, 2, 3, 1).reshape(G, Q, Q * L)  # (G, p, q * L + i)
    both = torch.cat([response, per_group @ lifted], dim=2)  # (G, c, L + Q * L)
    both = F.pad(both, (0, 0, 0, -(C // G) % LANES))
    tiles = both.view(G, -1, LANES, L + Q * L).transpose(2, 3)
    return tiles.reshape(-1, L + Q * L, LANES)


class CompiledMemory(torch.autograd.Function):
    """(u (N, T, C), state (N, C, Q), lens, changes and packed read-outs) -> (y (N, T, C), state).

    The changes of state (G, L + Q, Q) over chunks and single frames get no gradient: a trained theta goes
    through the chunked form.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        u: Tensor,
        state: Tensor,
        lens: Tensor | None,
        chunk_change: Tensor,
        chunk_readout: Tensor,
        frame_change: Tensor,
        frame_readout: Tensor,
    ) -> tuple[Tensor, Tensor]:
        u, state = u.contiguous(), state.contiguous()
        lens = None if lens is None else lens.to(torch.int64).contiguous()
        operators = [
            _aligned(x) for x in (chunk_change, chunk_readout, frame_change, frame_readout)
        ]
        y, last = torch.empty_like(u), torch.empty_like(state)
        tensors = [u, state, lens, *operators, y, last]
        _call("forward", u.dtype, tensors, _shape(u, chunk_change))
        ctx.save_for_backward(u, state, lens, *operators)
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        u, state, lens, *operators = ctx.saved_tensors
        grad_y = torch.zeros_like(u) if grad_y is None else grad_y.contiguous()
        grad_last = None if grad_last is None else grad_last.contiguous()
        grad_u, grad_state = torch.empty_like(u), torch.empty_like(state)
        sums: list[Tensor | None] = [None, None]
        if ctx.needs_input_grad[4] or ctx.needs_input_grad[6]:
            threads = torch.get_num_threads()
            sums = [x.new_zeros(threads, *x.shape) for x in (operators[1], operators[3])]
        tensors = [u, grad_y, state, lens, *operators, grad_last, grad_u, grad_state, *sums]
        _call("backward", u.dtype, tensors, _shape(u, operators[0]))
        chunk, frame = (None if x is None else x.sum(0) for x in sums)
        return grad_u, grad_state, None, None, chunk, None, frame


def _shape(u: Tensor, change: Tensor) -> tuple[int, ...]:
    return (*u.shape, change.shape[0], change.shape[2])


def _call(name: str, dtype: torch.dtype, tensors: list[Any], shape: tuple[int, ...]) -> None:
    """Run one of the library's functions on the data of contiguous tensors.

    Raises:
        LmuError: the library could not be built here.
    """
    kernel = library()
    if kernel is None:
        raise LmuError("the compiled memory was asked for, but no C++ compiler built it here")
    function = getattr(kernel, f"legendre_{name}_{'double' if dtype == torch.float64 else 'float'}")
    pointers = [None if x is None else x.data_ptr() for x in tensors]
    function(*pointers, (ctypes.c_int64 * 5)(*shape), torch.get_num_threads())


def _aligned(x: Tensor) -> Tensor:
    x = x.contiguous()
    return x.clone() if x.data_ptr() % ALIGNMENT else x
