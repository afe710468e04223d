"""The chunked matrix form: products over whole chunks, a short scan over chunk states.

With ``X = [inputs of the chunk | state before it]`` (L + Q numbers) the chunk's outputs are
``X @ output``, one product for all chunks; the states follow from each other by ``Ad**L``, carried
in float64.

Legend: N batch, T frames, C channels, G groups of one theta, c = C / G, Q order, L chunk length,
K chunks, W = L + Q.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmu_asr.models.memory.kernels.matmul import matmul
from lmu_asr.models.memory.kernels.operators import TINY, ChunkOperators, toeplitz


def chunked_memory(
    u: Tensor,
    ops: ChunkOperators,
    readout: Tensor | None,
    skip: Tensor | None,
    state: Tensor,
    lens: Tensor | None,
    product_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate the memory chunk by chunk; shapes as in ``memory.legendre_memory``.

    ``product_dtype`` is that of the operands of the large products; the state keeps u's.
    """
    N, T, C = u.shape
    L, Q = ops.length, ops.order
    inputs = channel_chunks(u, L)
    output = ops.memory_output if readout is None else readout_output(ops, readout, skip)
    y, x, last = ChunkMap.apply(
        inputs, state.transpose(0, 1), ops.carry, ops.inject, output, product_dtype
    )
    if readout is None:
        # (C, N, K, L, Q) -> (N, K, L, C, Q) -> (N, T, C, Q)
        y = y.view(C, N, -1, L, Q).permute(1, 2, 3, 0, 4).reshape(N, -1, C, Q)
    else:
        # (C, N, K, L) -> (N, K, L, C) -> (N, T, C)
        y = y.permute(1, 2, 3, 0).reshape(N, -1, C)
    return y[:, :T], state_at(x, last, ops, lens, T)


class ChunkMap(torch.autograd.Function):
    """(inputs (C, N, K, L), state (C, N, Q)) -> (y (C, N, K, M), X (C, N, K, W), last state).

    carry (G, Q, Q) is float64, inject (G, L, Q), output (B, W, M) with B of G or C. Only X is
    kept for the backward pass, which runs the adjoint of the same scan.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        inputs: Tensor,
        state: Tensor,
        carry: Tensor,
        inject: Tensor,
        output: Tensor,
        product_dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        C, N, K, L = inputs.shape
        B, W, M = output.shape
        x = inputs.new_empty(C, N, K, W)
        # inputs and states side by side, so that one product gives all outputs
        x[..., :L] = inputs
        last = _scan(x, state, carry, inject)
        y = product(x.view(B, -1, W), output, product_dtype).view(C, N, K, M)
        ctx.save_for_backward(x, carry, inject, output)
        ctx.product_dtype = product_dtype
        # outputs that nobody used then come as None, not as zeros to multiply
        ctx.set_materialize_grads(False)
        return y, x, last

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_y: Tensor | None, grad_x: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, carry, inject, output = ctx.saved_tensors
        C, N, K, W = x.shape
        G, L, Q = inject.shape
        B = output.shape[0]
        adjoint = x.new_zeros(C, N, K, W) if grad_x is None else grad_x
        grad_output = None
        if grad_y is not None:
            rows = grad_y.reshape(B, N * K * C // B, -1)
            direct = product(rows, output.transpose(1, 2), ctx.product_dtype).view(C, N, K, W)
            adjoint = direct if grad_x is None else direct.add_(grad_x)
            if ctx.needs_input_grad[4]:
                grad_output = product(x.view(B, -1, W).transpose(1, 2), rows, ctx.product_dtype)
        last = x.new_zeros(C, N, Q) if grad_last is None else grad_last
        after, first = _adjoint_scan(adjoint[..., L:], last, carry)  # (G, c * N, K, Q)
        grad_inputs = (after @ inject.transpose(1, 2).unsqueeze(1)).view(C, N, K, L)
        grad_inputs += adjoint[..., :L]
        grad_carry = grad_inject = None
        if ctx.needs_input_grad[2]:
            rows = after.reshape(G, -1, Q).transpose(1, 2)
            grad_carry = (rows @ x[..., L:].reshape(G, -1, Q)).to(carry.dtype)
        if ctx.needs_input_grad[3]:
            grad_inject = x[..., :L].reshape(G, -1, L).transpose(1, 2) @ after.reshape(G, -1, Q)
        return grad_inputs, first, grad_carry, grad_inject, grad_output, None


def _scan(x: Tensor, state: Tensor, carry: Tensor, inject: Tensor) -> Tensor:
    """Write the state before each chunk into X (C, N, K, W) and return the last (C, N, Q)."""
    C, N, K, W = x.shape
    G, L, Q = inject.shape
    by_group = x.view(G, -1, K, W)
    inflow = (by_group[..., :L] @ inject.unsqueeze(1)).unbind(2)  # K of (G, c * N, Q)
    slots = by_group[..., L:].unbind(2)
    m = state.reshape(G, -1, Q).to(carry.dtype)
    forward = carry.transpose(1, 2).contiguous()
    for k in range(K):
        # small values become zero: denormals in the products would slow the CPU many times
        slots[k].copy_(F.hardshrink(m, TINY))
        # in float64, since rounding adds up over the chunks
        m = torch.baddbmm(inflow[k].to(carry.dtype), m, forward)
    return m.to(x.dtype).view(C, N, Q)


def _adjoint_scan(grads: Tensor, last: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
    """Carry the gradients of the states before each chunk (C, N, K, Q) back in time.

    Returns the gradient of the state after each chunk, (G, c * N, K, Q), and of the first.
    """
    C, N, K, Q = grads.shape
    G = carry.shape[0]
    slots = grads.reshape(G, -1, K, Q).unbind(2)
    after = grads.new_empty(G, slots[0].shape[1], K, Q)
    m = last.reshape(G, -1, Q).to(carry.dtype)
    for k in reversed(range(K)):
        after[:, :, k] = F.hardshrink(m, TINY)
        # carry without transpose: the adjoint of the step in _scan
        m = torch.baddbmm(slots[k].to(carry.dtype), m, carry)
    return after, m.to(grads.dtype).view(C, N, Q)


def product(a: Tensor, b: Tensor, dtype: torch.dtype | None, plus: Tensor | None = None) -> Tensor:
    """Batched product with operands in ``dtype``, (plus ``plus``); one matrix alone is faster."""
    kept = a.dtype
    if dtype is not None and dtype != kept:
        a, b = a.to(dtype), b.to(dtype)
    if a.shape[0] == 1 and a.dtype == kept:
        return matmul(a[0], b[0], None if plus is None else plus[0])[None]
    y = (torch.bmm(a, b) if a.shape[0] > 1 else torch.mm(a[0], b[0])[None]).to(kept)
    return y if plus is None else y.add_(plus)


def readout_output(ops: ChunkOperators, readout: Tensor, skip: Tensor | None) -> Tensor:
    """The map from X to the read-out of every frame of the chunk, (C, W, L)."""
    C, Q = readout.shape
    G, L = ops.impulse.shape[:2]
    per_group = readout.view(G, C // G, Q)
    kernel = (per_group @ ops.impulse.transpose(1, 2)).view(C, L)
    if skip is not None:
        kernel = torch.cat([kernel[:, :1] + skip.unsqueeze(1), kernel[:, 1:]], dim=1)
    inner = toeplitz(kernel.unsqueeze(-1)).squeeze(-1)  # (C, j, i)
    rows = ops.powers.permute(0, 2, 3, 1).reshape(G, Q, Q * L)  # (G, p, q * L + i)
    outer = (per_group @ rows).view(C, Q, L)
    return torch.cat([inner, outer], dim=1)


def channel_chunks(u: Tensor, L: int) -> Tensor:
    """Cut u (N, T, C) into zero-padded chunks (C, N, K, L)."""
    N, T, C = u.shape
    missing = -T % L
    if missing:
        u = F.pad(u, (0, 0, 0, missing))
    # (N, K, L, C) -> (C, N, K, L): channels first, since those of a group share a product
    return u.reshape(N, (T + missing) // L, L, C).permute(3, 0, 1, 2)


def state_at(x: Tensor, last: Tensor, ops: ChunkOperators, lens: Tensor | None, T: int) -> Tensor:
    """Return the state (N, C, Q) after each sequence's own frames, T of them without ``lens``.

    The sequence's last, partial chunk is shifted to end at the chunk's end, so that the usual
    step takes it in; its state is carried by the power of Ad for the frames that are left.
    """
    C, N, K, _ = x.shape
    L, Q, G = ops.length, ops.order, ops.impulse.shape[0]
    if lens is None:
        if T % L == 0:
            return last.transpose(0, 1)
        lens = torch.full((N,), T, device=x.device)
    k, rest = lens // L, lens % L
    batch = torch.arange(N, device=x.device)
    # clamped: a sequence that fills its last chunk has none after it, and takes last below
    chunk = x[:, batch, k.clamp(max=K - 1)]  # (C, N, W)
    start = torch.where((k < K)[:, None], chunk[..., L:], last).reshape(G, -1, N, Q)
    shift = torch.arange(L, device=x.device) - (L - rest)[:, None]  # (N, L)
    inputs = chunk[..., :L].gather(2, shift.clamp(min=0).expand(C, N, L))
    inputs = (inputs * (shift >= 0).to(x.dtype)).reshape(G, -1, N, L)
    powers = ops.powers[:, (rest - 1).clamp(min=0)]  # (G, N, Q, Q)
    moved = torch.einsum("gcnq,gnpq->gcnp", start, powers)
    moved = torch.where((rest > 0)[:, None], moved, start)
    end = moved + torch.einsum("gcnl,glq->gcnq", inputs, ops.inject)
    return end.reshape(C, N, Q).transpose(0, 1)
