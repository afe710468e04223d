"""Triton kernels of the depthwise memory with a read-out; import only where Triton is installed.

One program takes one sequence and a block of channels of one group through all chunks, the state
in registers. The shared step of the state is a matrix product; the read-out, a channel's own, is
summed over [inputs | state]. Names and layouts are those of ``kernels.chunked``: change (G, L+Q, Q),
output (C, L + Q, L); u, y (N, T, C); state (N, C, Q). QP is Q padded to a power of two of 16 at
least, BC the channels of a block. States are float32, whatever the inputs are.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _channels(cg, tiles, BC: tl.constexpr):
    """Return the group, the channels of this program and which of them exist."""
    tile = tl.program_id(1)
    group = tile // tiles
    inside = (tile % tiles) * BC + tl.arange(0, BC)
    return group, group * cg + inside, inside < cg


@triton.jit
def _shared(change, group, L: tl.constexpr, Q: tl.constexpr, QP: tl.constexpr):
    """Return the state's change per state, (QP, QP) as [new, old], and per input, (QP, L)."""
    q = tl.arange(0, QP)
    i = tl.arange(0, L)
    base = change + group * (L + Q) * Q
    real = q < Q
    carry = tl.load(
        base + (L + q[None, :]) * Q + q[:, None], mask=real[:, None] & real[None, :], other=0.0
    )
    inject = tl.load(base + i[None, :] * Q + q[:, None], mask=real[:, None], other=0.0)
    return carry, inject


@triton.jit
def _own(output, c, ok, L: tl.constexpr, Q: tl.constexpr, QP: tl.constexpr):
    """Return the read-outs of the state, (QP, L, BC), and of the inputs, (L, L, BC)."""
    q = tl.arange(0, QP)
    i = tl.arange(0, L)
    base = output + c[None, None, :] * (L + Q) * L + i[None, :, None]
    real = (q < Q)[:, None, None] & (i >= 0)[None, :, None] & ok[None, None, :]
    rows = tl.load(base + (L + q[:, None, None]) * L, mask=real, other=0.0)
    here = (i >= 0)[:, None, None] & (i >= 0)[None, :, None] & ok[None, None, :]
    direct = tl.load(base + i[:, None, None] * L, mask=here, other=0.0)
    return rows, direct


@triton.jit
def _add(state, low, change):
    """Add with the rounding kept in ``low`` (Knuth's two-sum)."""
    part = change + low
    total = state + part
    taken = total - state
    return total, (state - (total - taken)) + (part - taken)


@triton.jit
def forward_kernel(
    u, y, state, tail, lens, change, output, T, C, cg, tiles,
    L: tl.constexpr, Q: tl.constexpr, QP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Write y, zero past each length, and the state before each sequence's last, partial chunk."""
    n = tl.program_id(0).to(tl.int64)
    group, c, ok = _channels(cg, tiles, BC)
    q = tl.arange(0, QP)
    i = tl.arange(0, L)
    carry, inject = _shared(change, group, L, Q, QP)
    rows, direct = _own(output, c, ok, L, Q, QP)
    where = (n * C + c[None, :]) * Q + q[:, None]
    real = (q < Q)[:, None] & ok[None, :]
    m = tl.load(state + where, mask=real, other=0.0)
    low = tl.zeros((QP, BC), dtype=tl.float32)
    kept = m
    length = tl.load(lens + n)
    whole = length // L
    chunks = tl.cdiv(T, L)
    for k in range(0, chunks):
        t = k * L + i
        at = (n * T + t[:, None]) * C + c[None, :]
        live = (t < length)[:, None] & ok[None, :]
        x = tl.load(u + at, mask=live, other=0.0).to(tl.float32)
        kept = tl.where(k == whole, m, kept)
        out = tl.sum(rows * m[:, None, :], axis=0) + tl.sum(direct * x[:, None, :], axis=0)
        out = tl.where(live, out, 0.0)
        tl.store(y + at, out.to(y.dtype.element_ty), mask=(t < T)[:, None] & ok[None, :])
        step = tl.dot(carry, m, input_precision="ieee") + tl.dot(inject, x, input_precision="ieee")
        m, low = _add(m, low, step)
    kept = tl.where(whole == chunks, m, kept)
    tl.store(tail + where, kept, mask=real)


@triton.jit
def readout_gradient_kernel(
    u, dy, state, lens, change, sums, T, C, cg, tiles,
    L: tl.constexpr, Q: tl.constexpr, QP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Run the states again, forward in time, and write the gradient of output per sequence."""
    n = tl.program_id(0).to(tl.int64)
    group, c, ok = _channels(cg, tiles, BC)
    q = tl.arange(0, QP)
    i = tl.arange(0, L)
    carry, inject = _shared(change, group, L, Q, QP)
    where = (n * C + c[None, :]) * Q + q[:, None]
    m = tl.load(state + where, mask=(q < Q)[:, None] & ok[None, :], other=0.0)
    low = tl.zeros((QP, BC), dtype=tl.float32)
    rows = tl.zeros((QP, L, BC), dtype=tl.float32)
    direct = tl.zeros((L, L, BC), dtype=tl.float32)
    length = tl.load(lens + n)
    for k in range(0, tl.cdiv(length, L)):
        t = k * L + i
        at = (n * T + t[:, None]) * C + c[None, :]
        live = (t < length)[:, None] & ok[None, :]
        x = tl.load(u + at, mask=live, other=0.0).to(tl.float32)
        g = tl.load(dy + at, mask=live, other=0.0).to(tl.float32)
        rows += m[:, None, :] * g[None, :, :]
        direct += x[:, None, :] * g[None, :, :]
        step = tl.dot(carry, m, input_precision="ieee") + tl.dot(inject, x, input_precision="ieee")
        m, low = _add(m, low, step)
    base = sums + (n * C + c[None, None, :]) * (L + Q) * L + i[None, :, None]
    real = (q < Q)[:, None, None] & (i >= 0)[None, :, None] & ok[None, None, :]
    tl.store(base + (L + q[:, None, None]) * L, rows, mask=real)
    causal = (i[:, None, None] <= i[None, :, None]) & ok[None, None, :]
    tl.store(base + i[:, None, None] * L, direct, mask=causal)


@triton.jit
def input_gradient_kernel(
    dy, du, dtail, dstate, lens, change, output, T, C, cg, tiles,
    L: tl.constexpr, Q: tl.constexpr, QP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Run the adjoint backward in time; write the gradients of u and of the first state."""
    n = tl.program_id(0).to(tl.int64)
    group, c, ok = _channels(cg, tiles, BC)
    q = tl.arange(0, QP)
    i = tl.arange(0, L)
    carry, inject = _shared(change, group, L, Q, QP)
    # transposed, since gradients run through the adjoint of the step
    carry, inject = tl.trans(carry), tl.trans(inject)
    rows, direct = _own(output, c, ok, L, Q, QP)
    where = (n * C + c[None, :]) * Q + q[:, None]
    real = (q < Q)[:, None] & ok[None, :]
    wanted = tl.load(dtail + where, mask=real, other=0.0)
    low = tl.zeros((QP, BC), dtype=tl.float32)
    length = tl.load(lens + n)
    whole = length // L
    chunks = tl.cdiv(T, L)
    m = tl.where(whole == chunks, wanted, tl.zeros((QP, BC), dtype=tl.float32))
    for back in range(0, chunks):
        k = chunks - 1 - back
        t = k * L + i
        at = (n * T + t[:, None]) * C + c[None, :]
        live = (t < length)[:, None] & ok[None, :]
        g = tl.load(dy + at, mask=live, other=0.0).to(tl.float32)
        gradient = tl.sum(direct * g[None, :, :], axis=1)
        gradient += tl.dot(inject, m, input_precision="ieee")
        gradient = tl.where(live, gradient, 0.0)
        tl.store(du + at, gradient.to(du.dtype.element_ty), mask=(t < T)[:, None] & ok[None, :])
        step = tl.sum(rows * g[None, :, :], axis=1)
        step += tl.dot(carry, m, input_precision="ieee")
        step += tl.where(k == whole, wanted, tl.zeros((QP, BC), dtype=tl.float32))
        m, low = _add(m, low, step)
    tl.store(dstate + where, m, mask=real)
