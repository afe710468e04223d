"""Norm, gate, dropped branch: one pass forward and one back, compiled or in torch.

Each function takes the compiled path for float32 on the CPU where the library could be built, and
torch's own operators otherwise. On the CPU the bfloat16 products of autocast are first cast to
float32. Both paths give the same values up to rounding; the random bits of dropped branches differ.

Legend: N batch, T frames, R rows (frames of all utterances), D features, H hidden.
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

from lmu_asr.models.memory.kernels.build import load_library
from lmu_asr.torch_versions import in_cpu_autocast

_P, _L, _F = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_SIGNATURES: dict[str, list[Any]] = {
    "rms_forward": [_P, _P, _P, _P, _L, _L, _F],
    "rms_backward": [_P, _P, _P, _P, _P, _P, _L, _L],
    "gate_forward": [_P, _L, _P, _L, _P, _L, _L],
    "gate_backward": [_P, _P, _L, _P, _L, _P, _L, _P, _L, _L, _L],
    "drop_add": [_P, _P, _P, _L, ctypes.c_uint64, ctypes.c_uint32, _F],
    "int8_linear": [_P, _P, _P, _P, _P, _L, _L, _L],
    "float_linear": [_P, _P, _P, _P, _L, _L, _L],
    "block_step": [_P, _P, _P, _P, _P, _P, _L, _L],
}
GRADIENT_ROWS = 64  # rows that share one partial weight gradient in rms_backward


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the compiled functions with their argument types set, or None."""
    found = load_library(Path(__file__).with_name("elementwise.cpp"))
    for name, arguments in _SIGNATURES.items() if found is not None else ():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, None
    return found


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``weight * x / sqrt(mean(x**2) + eps)`` over the last axis of x (..., D)."""
    if _takes(x, weight):
        return _RmsNorm.apply(x.contiguous(), weight, eps)
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight).to(x.dtype)


def silu_gate(value: Tensor, gate: Tensor) -> Tensor:
    """Return ``value * silu(gate)``, both (..., H)."""
    value, gate = _widened(value), _widened(gate)
    if _takes(value, gate):
        return _Gate.apply(value, gate)
    return value * F.silu(gate)


def swiglu(packed: Tensor) -> Tensor:
    """Return ``b * silu(a)`` of packed ``[a, b]`` (..., 2H)."""
    packed = _widened(packed)
    if _takes(packed):
        return _PackedGate.apply(packed.contiguous())
    a, b = packed.chunk(2, dim=-1)
    return F.silu(a) * b


def dropped_sum(x: Tensor, branch: Tensor, rate: float) -> Tensor:
    """Return ``x + dropout(branch, rate)``; the random bits follow torch's CPU generator."""
    if rate <= 0:
        return x + branch
    x, branch = _widened(x), _widened(branch)
    if _takes(x, branch) and x.shape == branch.shape:
        return _DroppedSum.apply(x.contiguous(), branch.contiguous(), rate)
    return x + F.dropout(branch, rate)


def _widened(x: Tensor) -> Tensor:
    """Return x in float32 if it is a bfloat16 product of autocast on the CPU: that is the faster."""
    narrow = x.dtype == torch.bfloat16 and x.device.type == "cpu" and in_cpu_autocast()
    return x.float() if narrow else x


def _takes(*tensors: Tensor) -> bool:
    """Whether the compiled path applies: float32 on the CPU, not under autocast, not traced."""
    return all(
        t.dtype == torch.float32 and t.device.type == "cpu" and t.dim() > 0 and t.numel() > 0
        for t in tensors
    ) and (not torch.jit.is_tracing() and library() is not None)


def _call(name: str, *arguments: Any) -> None:
    getattr(library(), name)(*arguments)


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """Return x with evenly spaced rows of adjacent features, and their distance in elements."""
    if x.stride(-1) == 1 and _evenly_spaced(x):
        return x, x.stride(-2) if x.dim() > 1 else x.shape[-1]
    return x.contiguous(), x.shape[-1]


def _evenly_spaced(x: Tensor) -> bool:
    step = x.stride(-2) if x.dim() > 1 else 0
    for size, stride in zip(x.shape[-2::-1], x.stride()[-2::-1], strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        D = x.shape[-1]
        R = x.numel() // D
        y, inverse = torch.empty_like(x), x.new_empty(R)
        pointers = (x.data_ptr(), weight.data_ptr(), y.data_ptr(), inverse.data_ptr())
        _call("rms_forward", *pointers, R, D, eps)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        R, D = inverse.shape[0], x.shape[-1]
        g, gx = g.contiguous(), torch.empty_like(x)
        # partial sums over a fixed number of rows: the same result for any number of threads
        gw = x.new_empty(-(-R // GRADIENT_ROWS), D)
        tensors = (g, x, weight, inverse, gx, gw)
        _call("rms_backward", *(t.data_ptr() for t in tensors), R, D)
        return gx, gw.sum(0), None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: Tensor) -> Tensor:
        (v, vs), (g, gs) = _rows(value), _rows(gate)
        H = value.shape[-1]
        y = torch.empty(value.shape)
        R = y.numel() // H
        _call("gate_forward", v.data_ptr(), vs, g.data_ptr(), gs, y.data_ptr(), R, H)
        ctx.save_for_backward(v, g)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, Tensor]:
        (v, vs), (g, gs) = (_rows(t) for t in ctx.saved_tensors)
        H, gy = v.shape[-1], gy.contiguous()
        gv, gg = torch.empty(v.shape), torch.empty(v.shape)
        sources = (gy.data_ptr(), v.data_ptr(), vs, g.data_ptr(), gs)
        _call("gate_backward", *sources, gv.data_ptr(), H, gg.data_ptr(), H, gy.numel() // H, H)
        return gv, gg


class _PackedGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Tensor:
        H = packed.shape[-1] // 2
        y = packed.new_empty(*packed.shape[:-1], H)
        a = packed.data_ptr()
        # pointers count bytes and strides floats: b lies 4 H bytes behind a
        _call("gate_forward", a + 4 * H, 2 * H, a, 2 * H, y.data_ptr(), y.numel() // H, H)
        ctx.save_for_backward(packed)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> Tensor:
        (packed,) = ctx.saved_tensors
        H, gy, out = packed.shape[-1] // 2, gy.contiguous(), torch.empty_like(packed)
        a, ga, row = packed.data_ptr(), out.data_ptr(), 2 * H
        sources = (gy.data_ptr(), a + 4 * H, row, a, row)
        _call("gate_backward", *sources, ga + 4 * H, row, ga, row, gy.numel() // H, H)
        return out


class _DroppedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, rate: float) -> Tensor:
        # drawn from torch's generator, so that seeding and resume reach the kernel's own bits
        seed = int(torch.randint(2**62, ()))
        ctx.keep = (seed, min(int(rate * 2**32), 2**32 - 1), 1.0 / (1.0 - rate))
        y = torch.empty_like(x)
        pointers = (x.data_ptr(), branch.data_ptr(), y.data_ptr())
        _call("drop_add", *pointers, x.numel(), *ctx.keep)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        g = g.contiguous()
        gb = torch.empty_like(g)
        # the same seed draws the same mask again, so none is kept between the passes
        _call("drop_add", None, g.data_ptr(), gb.data_ptr(), g.numel(), *ctx.keep)
        return g, gb, None
