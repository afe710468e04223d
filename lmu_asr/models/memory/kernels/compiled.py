"""The depthwise memory with a read-out in one compiled pass on the CPU, forward and backward.

Legend: N batch, T frames, C channels, G groups of one theta, Q order, L chunk length.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmu_asr.models.memory.kernels.build import load_library
from lmu_asr.models.memory.kernels.operators import ChunkOperators, chunk_operators
from lmu_asr.models.memory.legendre import LmuError

CHUNK = 8
ALIGNMENT = 64


def lanes(channels: int) -> int:
    """Return the width of a tile, 32 or 16 of a group's channels: what leaves fewer lanes empty."""
    return 16 if -channels % 32 >= 16 else 32


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
    chunk, frame = (chunk_operators(Ad, Bd, length, u.dtype) for length in (CHUNK, 1))
    leaves = (u, readout, state) if skip is None else (u, readout, state, skip)
    # packed anew with a gradient: autograd takes the packed read-outs' gradient to the read-out
    if torch.is_grad_enabled() and any(x.requires_grad for x in leaves):
        packed = [packed_readout(ops, readout, skip) for ops in (chunk, frame)]
        operators = chunk.change, packed[0], frame.change, packed[1]
        y, last = CompiledMemory.apply(u, state, lens, *operators)
        return y, last
    packed = _kept_readouts(chunk, frame, readout, skip)
    y, last, _ = _forward(u, state, lens, chunk.change, packed[0], frame.change, packed[1])
    return y, last


@dataclass
class _Kept:
    """Packed read-outs, and copies of what they were made from."""

    parameter: weakref.ref[Tensor]
    chunk: ChunkOperators
    readout: Tensor
    skip: Tensor | None
    packed: list[Tensor]

    def fits(self, chunk: ChunkOperators, readout: Tensor, skip: Tensor | None) -> bool:
        """Tell whether nothing has changed; values count, as ``data`` may change unseen."""
        if self.parameter() is not readout or self.chunk is not chunk:
            return False
        if skip is None or self.skip is None:
            return skip is self.skip and torch.equal(self.readout, readout)
        return torch.equal(self.skip, skip) and torch.equal(self.readout, readout)


_KEPT: dict[int, _Kept] = {}


def _kept_readouts(
    chunk: ChunkOperators, frame: ChunkOperators, readout: Tensor, skip: Tensor | None
) -> list[Tensor]:
    """Pack the read-outs, or take them as packed before: most of a short streaming step."""
    key = id(readout)
    kept = _KEPT.get(key)
    if kept is None or not kept.fits(chunk, readout, skip):
        # kept beyond this call, and inference tensors could not be used in training later
        with torch.inference_mode(False), torch.no_grad():
            packed = [packed_readout(ops, readout, skip) for ops in (chunk, frame)]
            # an id is given anew once its tensor is gone, so the entry goes with it
            alive = weakref.ref(readout, lambda _: _KEPT.pop(key, None))
            copy = None if skip is None else skip.clone()
            kept = _KEPT[key] = _Kept(alive, chunk, readout.clone(), copy, packed)
    return kept.packed


def _forward(
    u: Tensor,
    state: Tensor,
    lens: Tensor | None,
    chunk_change: Tensor,
    chunk_readout: Tensor,
    frame_change: Tensor,
    frame_readout: Tensor,
) -> tuple[Tensor, Tensor, list[Any]]:
    """Run the kernel; the last value returned is what its backward needs."""
    u, state = u.contiguous(), state.contiguous()
    lens = None if lens is None else lens.to(torch.int64).contiguous()
    operators = [_aligned(x) for x in (chunk_change, chunk_readout, frame_change, frame_readout)]
    y, last = torch.empty_like(u), torch.empty_like(state)
    _call("forward", u.dtype, [u, state, lens, *operators, y, last], _shape(u, chunk_change))
    return y, last, [u, state, lens, *operators]


def packed_readout(ops: ChunkOperators, readout: Tensor, skip: Tensor | None) -> Tensor:
    """Return [h | R] of every channel by tiles, (tiles, L + Q * L, lanes), as the kernel reads it.

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
    width = lanes(C // G)
    both = F.pad(both, (0, 0, 0, -(C // G) % width))
    tiles = both.view(G, -1, width, L + Q * L).transpose(2, 3)
    return tiles.reshape(-1, L + Q * L, width)


class CompiledMemory(torch.autograd.Function):
    """(u (N, T, C), state (N, C, Q), lens, changes and packed read-outs) -> (y (N, T, C), state).

    The changes of state (G, L + Q, Q) over chunks and single frames get no gradient: a trained
    theta goes through the chunked form.
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
        operators = chunk_change, chunk_readout, frame_change, frame_readout
        y, last, kept = _forward(u, state, lens, *operators)
        ctx.save_for_backward(*kept)
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
            # one sum a thread: threads need no lock, and the order of the last sum is fixed
            sums = [x.new_zeros(threads, *x.shape) for x in (operators[1], operators[3])]
        tensors = [u, grad_y, state, lens, *operators, grad_last, grad_u, grad_state, *sums]
        _call("backward", u.dtype, tensors, _shape(u, operators[0]))
        chunk, frame = (None if x is None else x.sum(0) for x in sums)
        return grad_u, grad_state, None, None, chunk, None, frame


def _shape(u: Tensor, change: Tensor) -> tuple[int, ...]:
    """N, T, C, G, Q and the lanes of a tile."""
    G, _, Q = change.shape
    return (*u.shape, G, Q, lanes(u.shape[2] // G))


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
    function(*pointers, (ctypes.c_int64 * 6)(*shape), torch.get_num_threads())


def _aligned(x: Tensor) -> Tensor:
    x = x.contiguous()
    # a view may begin anywhere, and the kernel's vector loads want aligned rows
    return x.clone() if x.data_ptr() % ALIGNMENT else x
