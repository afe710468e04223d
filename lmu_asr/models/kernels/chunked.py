"""The chunked matrix form: products over whole chunks, a short scan over chunk states.

With ``X = [inputs of the chunk | state before it]`` (L + Q numbers) both the chunk's outputs and
the next state are linear in X: ``y = X @ output``, ``state' = state + X @ step``.

Legend: N batch, T frames, C channels, G groups of one theta, c = C / G, Q order, L chunk length,
K chunks, W = L + Q, D width of a dense read-out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmu_asr.models.kernels.operators import ChunkOperators

Side = tuple[Tensor, Tensor]
"""A second input (N, T, F) and its weight (D, F)."""


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
    inputs = _channel_chunks(u, L)
    output = _memory_output(ops) if readout is None else _readout_output(ops, readout, skip)
    shape = (C, N, inputs.shape[2], output.shape[2])
    y, end = _run(inputs, state, ops, output, shape, None, lens, T, product_dtype)
    if readout is None:
        y = y.view(C, N, -1, L, Q).permute(1, 2, 3, 0, 4).reshape(N, -1, C, Q)
    else:
        y = y.permute(1, 2, 3, 0).reshape(N, -1, C)
    return y[:, :T], end


def chunked_projection(
    u: Tensor,
    ops: ChunkOperators,
    weight: Tensor,
    bias: Tensor | None,
    side: Side | None,
    state: Tensor,
    lens: Tensor | None,
    product_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate ``weight`` (D, C * Q) applied to the memory, (N, T, D), without forming it.

    ``side`` is a linear layer of another input that is added to the same output.
    """
    N, T, C = u.shape
    L = ops.length
    inputs = _channel_chunks(u, L)
    output = _projection_output(ops, weight, bias)
    if side is not None:
        x = F.pad(side[0], (0, 0, 0, -T % L)) if T % L else side[0]
        side = x.reshape(-1, x.shape[-1]), side[1]
    shape = (N, inputs.shape[2] * L, weight.shape[0])
    y, end = _run(inputs, state, ops, output, shape, side, lens, T, product_dtype)
    return y if shape[1] == T else y[:, :T], end


def _run(
    inputs: Tensor,
    state: Tensor,
    ops: ChunkOperators,
    output: Tensor,
    shape: tuple[int, ...],
    side: Side | None,
    lens: Tensor | None,
    T: int,
    product_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """Apply the chunk map and pick each sequence's own end state."""
    start = state.transpose(0, 1)  # (C, N, Q)
    y, x, last = _ChunkMap.apply(
        inputs, start, ops.step, output, shape, product_dtype, *(side or (None, None))
    )
    if lens is None and T % ops.length == 0:
        return y, last.transpose(0, 1)
    if lens is None:
        lens = torch.full((inputs.shape[1],), T, device=inputs.device)
    return y, _state_at(x, last, ops, lens)


class _ChunkMap(torch.autograd.Function):
    """(inputs (C, N, K, L), state (C, N, Q)) -> (y of ``shape``, X (C, N, K, W), last state).

    step is (G, W, Q), output (B, columns, M) as in :func:`_rows`; side (R, F) and its weight
    (D, F) add a linear layer of another input. Only X is kept for the backward pass, which runs
    the adjoint of the same scan.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        inputs: Tensor,
        state: Tensor,
        step: Tensor,
        output: Tensor,
        shape: tuple[int, ...],
        product_dtype: torch.dtype | None,
        side: Tensor | None,
        side_weight: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        C, N, K, L = inputs.shape
        x = inputs.new_empty(C, N, K, step.shape[1])
        x[..., :L] = inputs
        last = _scan(x, state, step)
        y = inputs.new_empty(shape)
        _product(
            _rows(x, output), output, product_dtype, y.view(output.shape[0], -1, output.shape[2])
        )
        if side is not None and side_weight is not None:
            y.view(-1, side_weight.shape[0]).addmm_(side, side_weight.T)
        ctx.save_for_backward(x, step, output, side, side_weight)
        ctx.product_dtype = product_dtype
        ctx.set_materialize_grads(False)
        return y, x, last

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_y: Tensor | None, grad_x: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, step, output, side, side_weight = ctx.saved_tensors
        C, N, _, W = x.shape
        G, _, Q = step.shape
        adjoint, grad_output = grad_x, None
        if grad_y is not None:
            grad_y = grad_y.reshape(output.shape[0], -1, output.shape[2])
            adjoint = _rows_adjoint(grad_y, output, x, ctx.product_dtype)
            if grad_x is not None:
                adjoint += grad_x
            if ctx.needs_input_grad[3]:
                rows = _rows(x, output).transpose(1, 2)
                grad_output = _product(rows, grad_y, ctx.product_dtype)
        adjoint = torch.zeros_like(x) if adjoint is None else adjoint
        if adjoint is grad_x:
            adjoint = grad_x.clone(memory_format=torch.contiguous_format)
        last = x.new_zeros(C, N, Q) if grad_last is None else grad_last.contiguous()
        first = _adjoint_scan(adjoint, last, step)
        grad_step = None
        if ctx.needs_input_grad[2]:
            after = torch.cat([adjoint[:, :, 1:, W - Q :], last.unsqueeze(2)], dim=2)
            grad_step = x.view(G, -1, W).transpose(1, 2) @ after.reshape(G, -1, Q)
        grad_side = _side_gradients(grad_y, side, side_weight, ctx.needs_input_grad[6:])
        grads = adjoint[..., : W - Q], first, grad_step, grad_output, None, None
        return *grads, *grad_side


def _scan(x: Tensor, state: Tensor, step: Tensor) -> Tensor:
    """Write the state before each chunk into X (C, N, K, W) and return the last (C, N, Q)."""
    C, N, K, W = x.shape
    G, _, Q = step.shape
    by_group, product = _grouped(x, G)
    step = step if G > 1 else step[0]
    chunks = by_group.unbind(-2)
    states = [*by_group[..., W - Q :].unbind(-2)]
    last = x.new_empty(C, N, Q)
    states.append(last.view(states[0].shape))
    states[0].copy_(state.reshape(states[0].shape))
    for k in range(K):
        product(states[k], chunks[k], step, out=states[k + 1])
    return last


def _adjoint_scan(adjoint: Tensor, last: Tensor, step: Tensor) -> Tensor:
    """Carry the gradient of the states back through the chunks, in place; return the first's."""
    G, W, Q = step.shape
    by_group, _ = _grouped(adjoint, G)
    back = step.transpose(1, 2).contiguous()  # (G, Q, W)
    chunks = by_group.unbind(-2)
    states = by_group[..., W - Q :].unbind(-2)
    m = last.view(states[0].shape)
    for k in reversed(range(len(chunks))):
        states[k].add_(m)
        if G > 1:
            chunks[k].baddbmm_(m, back)
        else:
            chunks[k].addmm_(m, back[0])
        m = states[k]
    return m.reshape(last.shape)


def _grouped(x: Tensor, G: int) -> tuple[Tensor, Any]:
    """View X as (G, c * N, K, W), without G when it is 1, and the fitting product-and-sum."""
    _, _, K, W = x.shape
    if G > 1:
        return x.view(G, -1, K, W), torch.baddbmm
    return x.view(-1, K, W), torch.addmm


def _rows(x: Tensor, output: Tensor) -> Tensor:
    """Arrange X (C, N, K, W) as (B, rows, columns) to be multiplied by ``output``.

    B is C or G; or 1, where all channels and a one (for a bias) stand in the columns.
    """
    C, N, K, W = x.shape
    if output.shape[1] == W:
        return x.view(output.shape[0], -1, W)
    columns = x.permute(1, 2, 0, 3).reshape(N * K, C * W)
    return torch.cat([columns, columns.new_ones(N * K, 1)], dim=1).unsqueeze(0)


def _rows_adjoint(grad_y: Tensor, output: Tensor, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return the gradient (C, N, K, W) of X, in fresh memory."""
    C, N, K, W = x.shape
    if output.shape[1] == W:
        return _product(grad_y, output.transpose(1, 2), dtype).view(C, N, K, W)
    columns = _product(output[:, :-1], grad_y.transpose(1, 2), dtype)  # (1, C * W, N * K)
    return columns.view(C, W, N, K).permute(0, 2, 3, 1).contiguous()


def _product(a: Tensor, b: Tensor, dtype: torch.dtype | None, out: Tensor | None = None) -> Tensor:
    """Batched product with operands in ``dtype``; one matrix alone is faster unbatched."""
    if out is None:
        out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    if dtype is not None and dtype != a.dtype:
        return out.copy_(torch.bmm(a.to(dtype), b.to(dtype)))
    if a.shape[0] == 1:
        torch.mm(a[0], b[0], out=out[0])
        return out
    return torch.bmm(a, b, out=out)


def _side_gradients(
    grad_y: Tensor | None, side: Tensor | None, weight: Tensor | None, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the side input and of its weight, where needed."""
    if grad_y is None or side is None or weight is None:
        return None, None
    rows = grad_y.reshape(-1, weight.shape[0])
    grad_weight = (side.T @ rows).T if needed[1] else None
    return rows @ weight if needed[0] else None, grad_weight


def _memory_output(ops: ChunkOperators) -> Tensor:
    """The map from X to the memory of every frame of the chunk, (G, W, L * Q)."""
    inner = _toeplitz(ops.impulse)  # (G, j, i, Q)
    outer = ops.powers.permute(0, 3, 1, 2)  # (G, q, i, p)
    return torch.cat([inner, outer], dim=1).flatten(2)


def _readout_output(ops: ChunkOperators, readout: Tensor, skip: Tensor | None) -> Tensor:
    """The map from X to the read-out of every frame of the chunk, (C, W, L)."""
    C, Q = readout.shape
    G, L = ops.impulse.shape[:2]
    per_group = readout.view(G, C // G, Q)
    kernel = (per_group @ ops.impulse.transpose(1, 2)).view(C, L)
    if skip is not None:
        kernel = torch.cat([kernel[:, :1] + skip.unsqueeze(1), kernel[:, 1:]], dim=1)
    inner = _toeplitz(kernel.unsqueeze(-1)).squeeze(-1)  # (C, j, i)
    lifted = ops.powers.permute(0, 2, 3, 1).reshape(G, Q, Q * L)  # (G, p, q * L + i)
    outer = (per_group @ lifted).view(C, Q, L)
    return torch.cat([inner, outer], dim=1)


def _projection_output(ops: ChunkOperators, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The map from X of all channels and a one to a dense read-out, (1, C * W + 1, L * D)."""
    D = weight.shape[0]
    G, L, Q = ops.impulse.shape
    c = weight.shape[1] // (G * Q)
    columns = weight.view(D, G, c, Q).permute(1, 3, 2, 0).reshape(G, Q, c * D)  # (G, p, c * D)
    inner = (ops.impulse @ columns).view(G, L, c, D).transpose(1, 2)  # (G, c, s, D)
    outer = (ops.lifted.flatten(1, 2) @ columns).view(G, Q, L, c, D).permute(0, 3, 1, 2, 4)
    both = torch.cat([_toeplitz(inner), outer], dim=2)  # (G, c, W, L, D)
    constant = weight.new_zeros(D) if bias is None else bias
    return torch.cat([both.reshape(-1, L * D), constant.repeat(L).unsqueeze(0)]).unsqueeze(0)


def _toeplitz(response: Tensor) -> Tensor:
    """Turn responses at lags 0..L-1, (..., L, M), into (..., j, i, M) = response[i - j]."""
    L = response.shape[-2]
    rows = [F.pad(response[..., : L - j, :], (0, 0, j, 0)) for j in range(L)]
    return torch.stack(rows, dim=-3)


def _channel_chunks(u: Tensor, L: int) -> Tensor:
    """Cut u (N, T, C) into zero-padded chunks (C, N, K, L)."""
    N, T, C = u.shape
    missing = -T % L
    if missing:
        u = F.pad(u, (0, 0, 0, missing))
    return u.reshape(N, (T + missing) // L, L, C).permute(3, 0, 1, 2)


def _state_at(x: Tensor, last: Tensor, ops: ChunkOperators, lens: Tensor) -> Tensor:
    """Return the state (N, C, Q) after each sequence's own ``lens`` frames.

    The sequence's last, partial chunk is shifted to end at the chunk's end, so that the usual
    step takes it in; its state is carried by the power of Ad for the frames that are left.
    """
    C, N, K, _ = x.shape
    L, Q, G = ops.length, ops.order, ops.impulse.shape[0]
    k, rest = lens // L, lens % L
    batch = torch.arange(N, device=x.device)
    chunk = x[:, batch, k.clamp(max=K - 1)]  # (C, N, W)
    start = torch.where((k < K)[:, None], chunk[..., L:], last).reshape(G, -1, N, Q)
    shift = torch.arange(L, device=x.device) - (L - rest)[:, None]  # (N, L)
    inputs = chunk[..., :L].gather(2, shift.clamp(min=0).expand(C, N, L))
    inputs = (inputs * (shift >= 0).to(x.dtype)).reshape(G, -1, N, L)
    powers = ops.powers[:, (rest - 1).clamp(min=0)]  # (G, N, Q, Q)
    moved = torch.einsum("gcnq,gnpq->gcnp", start, powers)
    moved = torch.where((rest > 0)[:, None], moved, start)
    end = moved + torch.einsum("gcnl,glq->gcnq", inputs, ops.step[:, :L])
    return end.reshape(C, N, Q).transpose(0, 1)
