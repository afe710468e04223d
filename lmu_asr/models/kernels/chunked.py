"""The chunked matrix form: products over whole chunks, a short scan over chunk states.

Legend: N batch, T frames, C channels, G groups of one theta, c = C / G, Q order, L chunk length,
K chunks, D width of a dense read-out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmu_asr.models.kernels.operators import ChunkOperators


def toeplitz(impulse: Tensor) -> Tensor:
    """Turn (..., L, X) responses at lags 0..L-1 into (..., L, L, X), [i, j] = response[i - j]."""
    L = impulse.shape[-2]
    lag = torch.arange(L, device=impulse.device)
    lag = lag[:, None] - lag  # (i, j)
    rows = impulse.index_select(-2, lag.clamp(min=0).flatten())
    rows = rows.reshape(*impulse.shape[:-2], L, L, impulse.shape[-1])
    return rows * (lag >= 0).to(impulse.dtype)[..., None]


def chunk_states(u: Tensor, ops: ChunkOperators, state: Tensor) -> tuple[Tensor, Tensor]:
    """Scan over chunks: u (N, K, L, G, c), state (N, C, Q) -> states (K+1, G, N, c, Q).

    Entry k is the state before chunk k.
    """
    N, K, L, G, c = u.shape
    Q = state.shape[-1]
    inflow = torch.einsum("nklgc,glq->kgncq", u, ops.inject)
    carry = ops.carry.transpose(1, 2)
    m = state.reshape(N, G, c, Q).transpose(0, 1)
    states = [m]
    for chunk in inflow.unbind(0):
        m = m + torch.bmm(m.reshape(G, N * c, Q), carry).view(G, N, c, Q) + chunk
        states.append(m)
    return torch.stack(states)


def state_at(u: Tensor, states: Tensor, ops: ChunkOperators, lens: Tensor) -> Tensor:
    """Return the state (N, C, Q) after each sequence's own ``lens`` frames."""
    N, K, L, G, c = u.shape
    Q = states.shape[-1]
    k, rest = lens // L, lens % L
    batch = torch.arange(N, device=u.device)
    start = states[k, :, batch]  # (N, G, c, Q)
    eye = torch.eye(Q, dtype=u.dtype, device=u.device).expand(G, 1, Q, Q)
    powers = torch.cat([eye, ops.powers], dim=1)[:, rest]  # (G, N, Q, Q)
    end = torch.einsum("ngcq,gnpq->ngcp", start, powers)
    if K > 0:
        shift = torch.arange(L, device=u.device) - (L - rest)[:, None]  # (N, L)
        chunk = u[batch[:, None], k.clamp(max=K - 1)[:, None], shift.clamp(min=0)]
        chunk = chunk * (shift >= 0).to(u.dtype)[..., None, None]  # (N, L, G, c)
        end = end + torch.einsum("nlgc,glq->ngcq", chunk, ops.inject)
    return end.reshape(N, G * c, Q)


def chunked_memory(
    u: Tensor,
    ops: ChunkOperators,
    readout: Tensor | None,
    skip: Tensor | None,
    state: Tensor,
    lens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Evaluate the memory chunk by chunk; shapes as in ``memory.legendre_memory``."""
    N, T, C = u.shape
    chunks = split(u, ops)
    states = chunk_states(chunks, ops, state)
    G, c, L = chunks.shape[3], chunks.shape[4], ops.length
    if readout is None:
        y = torch.einsum("kgncq,gipq->nkigcp", states[:-1], ops.powers)
        y = y + torch.einsum("nkjgc,gijp->nkigcp", chunks, toeplitz(ops.impulse))
        y = y.reshape(N, -1, C, ops.impulse.shape[-1])[:, :T]
    else:
        per_group = readout.reshape(G, c, -1)
        rows = torch.einsum("gcp,gipq->gciq", per_group, ops.powers)
        kernel = toeplitz(torch.einsum("gcq,glq->glc", per_group, ops.impulse))
        y = torch.einsum("kgncq,gciq->nkigc", states[:-1], rows)
        y = y + torch.einsum("nkjgc,gijc->nkigc", chunks, kernel)
        y = y.reshape(N, -1, C)[:, :T]
    if skip is not None:
        y = y + skip * u
    lens = torch.full((N,), T, device=u.device) if lens is None else lens
    return y, state_at(chunks, states, ops, lens)


def chunked_projection(
    u: Tensor, ops: ChunkOperators, weight: Tensor, state: Tensor, lens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Evaluate ``weight`` (D, C * Q) applied to the memory, (N, T, D), without forming it."""
    N, T, C = u.shape
    chunks = split(u, ops)
    states = chunk_states(chunks, ops, state)
    G, c = chunks.shape[3], chunks.shape[4]
    per_group = weight.reshape(weight.shape[0], G, c, -1)
    rows = torch.einsum("dgcp,gipq->gcidq", per_group, ops.powers)
    kernel = toeplitz(torch.einsum("dgcq,glq->gcld", per_group, ops.impulse))
    y = torch.einsum("kgncq,gcidq->nkid", states[:-1], rows)
    y = y + torch.einsum("nkjgc,gcijd->nkid", chunks, kernel)
    y = y.reshape(N, -1, weight.shape[0])[:, :T]
    lens = torch.full((N,), T, device=u.device) if lens is None else lens
    return y, state_at(chunks, states, ops, lens)


def split(u: Tensor, ops: ChunkOperators) -> Tensor:
    """Cut u (N, T, C) into zero-padded chunks (N, K, L, G, c)."""
    N, T, C = u.shape
    L, G = ops.length, ops.impulse.shape[0]
    missing = -T % L
    padded = F.pad(u, (0, 0, 0, missing)) if missing else u
    return padded.reshape(N, (T + missing) // L, L, G, C // G)
