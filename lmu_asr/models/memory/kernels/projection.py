"""A dense read-out of the memory, folded into the chunk operators: the memory is never formed.

The states before chunks of a few frames come from chunks eight times as long, in one product;
then ``[inputs | state | 1] @ [W H; W Ad^i; b]`` gives all outputs of a chunk, so that little is
multiplied beyond ``W m`` itself.

Legend: N batch, T frames, C channels, G groups of one theta, c = C / G, Q order, L chunk length,
K chunks, D width, F width of a second input.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmu_asr.models.memory.kernels.chunked import ChunkMap, channel_chunks, product, state_at
from lmu_asr.models.memory.kernels.matmul import matmul, row_blocks
from lmu_asr.models.memory.kernels.operators import ChunkOperators, chunk_operators, toeplitz

LENGTHS = (8, 10, 9, 7, 12, 11, 6)
SPAN = 16
ALIGNMENT = 16
"""Columns of X are filled up to a multiple of it: products of other widths lose a tenth."""

Side = tuple[Tensor, Tensor]
"""A second input (N, T, F) and its weight (D, F)."""


def chunk_length(T: int) -> int:
    """Return a chunk length near 8 that divides T, so that nothing is padded, or else 8."""
    return next((L for L in LENGTHS if T % L == 0), min(LENGTHS[0], T))


def chunked_projection(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    side: Side | None,
    state: Tensor,
    lens: Tensor | None,
    length: int | None = None,
    product_dtype: torch.dtype | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Evaluate ``weight`` (D, C * Q) applied to the memory, plus bias and side, (N, T, D)."""
    N, T, _ = u.shape
    L = length or chunk_length(T)
    ops = chunk_operators(Ad, Bd, L, u.dtype)
    inputs = channel_chunks(u, L)  # (C, N, K, L)
    K = inputs.shape[2]
    states = _boundary_states(inputs, Ad, Bd, state.transpose(0, 1), product_dtype)
    x = torch.cat([inputs, states[:, :, :K]], dim=3)  # (C, N, K, L + Q)
    end = state_at(x, states[:, :, K], ops, lens, T)
    columns = x.permute(1, 2, 0, 3).reshape(N * K, -1)
    columns = torch.cat([columns, _constant_columns(columns)], dim=1)
    if side is not None:
        second = F.pad(side[0], (0, 0, 0, -T % L)) if T % L else side[0]
        side = second.reshape(-1, second.shape[-1]), side[1]
    shape = (N, K * L, weight.shape[0])
    output = _dense_output(ops, weight, bias)
    y = _TwoProducts.apply(columns, output, *(side or (None, None)), shape, product_dtype, relu)
    return y if K * L == T else y[:, :T], end


def _constant_columns(columns: Tensor) -> Tensor:
    """A one for the bias, and zeros up to the next multiple of ALIGNMENT, (N * K, P)."""
    rows, width = columns.shape
    one = columns.new_zeros(1, ALIGNMENT - width % ALIGNMENT)
    one[0, 0] = 1.0
    return one.expand(rows, -1)


class _TwoProducts(torch.autograd.Function):
    """``X @ output`` seen as (N, T, D), plus ``side @ side_weight.T``, rectified, in one buffer."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        output: Tensor,
        side: Tensor | None,
        side_weight: Tensor | None,
        shape: tuple[int, int, int],
        product_dtype: torch.dtype | None,
        relu: bool,
    ) -> Tensor:
        y = x.new_empty(shape)
        flat, D = y.view(x.shape[0], -1), shape[2]
        frames = None if side is None else side.view(x.shape[0], -1, side.shape[1])
        for rows in row_blocks(x, flat.shape[1]):
            part = product(x[None, rows], output[None], product_dtype)
            if frames is not None and side_weight is not None:
                second = frames[rows].flatten(0, 1)[None]
                part = product(second, side_weight.T[None], product_dtype, part.view(1, -1, D))
            part = part.view(-1, flat.shape[1])
            torch.clamp_min(part, 0, out=flat[rows]) if relu else flat[rows].copy_(part)
        ctx.save_for_backward(x, output, side, side_weight, y if relu else None)
        ctx.product_dtype = product_dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, output, side, side_weight, positive = ctx.saved_tensors
        need_x, need_output, need_side, need_weight = ctx.needs_input_grad[:4]
        dtype, D = ctx.product_dtype, grad_y.shape[2]
        flat = grad_y.reshape(x.shape[0], -1)
        grad_x = torch.empty_like(x) if need_x else None
        grad_output: Tensor | None = None
        grad_side = torch.empty_like(side) if need_side else None
        grad_weight: Tensor | None = None
        for rows in row_blocks(x, flat.shape[1]):
            part = flat[rows]
            if positive is not None:
                kept = positive.view(flat.shape)[rows]
                part = torch.ops.aten.threshold_backward(part, kept, 0)
            if grad_x is not None:
                grad_x[rows] = product(part[None], output.T[None], dtype)[0]
            if need_output:
                found = product(x[rows].T[None], part[None], dtype)[0]
                grad_output = found if grad_output is None else grad_output.add_(found)
            if side is None:
                continue
            frames, per_row = part.reshape(-1, D), side.shape[0] // x.shape[0]
            of_side = slice(rows.start * per_row, rows.stop * per_row)
            if grad_side is not None:
                grad_side[of_side] = product(frames[None], side_weight[None], dtype)[0]
            if need_weight:
                found = product(side[of_side].T[None], frames[None], dtype)[0].T
                grad_weight = found if grad_weight is None else grad_weight.add_(found)
        return grad_x, grad_output, grad_side, grad_weight, None, None, None


def _boundary_states(
    inputs: Tensor, Ad: Tensor, Bd: Tensor, state: Tensor, product_dtype: torch.dtype | None
) -> Tensor:
    """Return the states before each chunk of inputs (C, N, K, L) and after the last, (.., K+1, Q).

    Spans of several chunks are scanned; the states inside a span come from its inputs and its
    first state at once, which is faster and rounds less often than going chunk by chunk.
    """
    C, N, K, L = inputs.shape
    span = min(SPAN, K)
    ops = chunk_operators(Ad, Bd, L * span, inputs.dtype, stride=L)
    padded = F.pad(inputs, (0, 0, 0, -K % span)) if K % span else inputs
    spans = padded.reshape(C, N, -1, span * L)
    y, _, _ = ChunkMap.apply(spans, state, ops.carry, ops.inject, ops.memory_output, product_dtype)
    after = y.view(C, N, -1, ops.order)[:, :, :K]
    return torch.cat([state.unsqueeze(2), after], dim=2)


def _dense_output(ops: ChunkOperators, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The map from [X of all channels | 1 | 0] to a chunk's outputs, (W, L * D).

    W is C * (L + Q) + 1, filled up to a multiple of ALIGNMENT.
    """
    D = weight.shape[0]
    G, L, Q = ops.impulse.shape
    c = weight.shape[1] // (G * Q)
    constant = weight.new_zeros(D) if bias is None else bias
    if G * c == 1 and not ops.impulse.requires_grad:
        return _OneChannelOutput.apply(
            weight, constant, ops.lifted[0].flatten(0, 1), ops.impulse[0]
        )
    columns = weight.view(D, G, c, Q).permute(1, 3, 2, 0).reshape(G, Q, c * D)  # (G, p, c * D)
    inner = (ops.impulse @ columns).view(G, L, c, D).transpose(1, 2)  # (G, c, s, D)
    outer = (ops.lifted.flatten(1, 2) @ columns).view(G, Q, L, c, D).permute(0, 3, 1, 2, 4)
    both = torch.cat([toeplitz(inner), outer], dim=2)  # (G, c, L + Q, L, D)
    rows = both.reshape(-1, L * D)
    unused = rows.new_zeros(-(rows.shape[0] + 1) % ALIGNMENT, L * D)
    return torch.cat([rows, constant.repeat(L).unsqueeze(0), unused])


class _OneChannelOutput(torch.autograd.Function):
    """:func:`_dense_output` for one channel, each part written in place, as it is large."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, weight: Tensor, bias: Tensor, lifted: Tensor, impulse: Tensor
    ) -> Tensor:
        (L, Q), D = impulse.shape, weight.shape[0]
        used = L + Q + 1
        output = weight.new_empty(used + -used % ALIGNMENT, L, D)
        inner = impulse @ weight.T  # (L, D)
        for j in range(L):
            output[j, :j] = 0.0
            output[j, j:] = inner[: L - j]
        output[L : L + Q].view(-1, D).copy_(matmul(lifted, weight.T))
        output[L + Q] = bias
        output[used:] = 0.0
        ctx.save_for_backward(lifted, impulse)
        return output.view(-1, L * D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        lifted, impulse = ctx.saved_tensors
        L, Q = impulse.shape
        grad = grad.reshape(grad.shape[0], L, -1)
        inner = grad[0].clone()
        for j in range(1, L):
            inner[: L - j] += grad[j, j:]
        carried = grad[L : L + Q].reshape(lifted.shape[0], -1)
        grad_weight = torch.addmm(matmul(lifted.T, carried).T, inner.T, impulse)
        return grad_weight, grad[L + Q].sum(0), None, None
