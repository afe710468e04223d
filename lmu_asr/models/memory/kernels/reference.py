"""The two evaluations that serve as oracles: the sequential scan and the FFT convolution.

Legend: N batch, T frames, C channels, G groups of one theta, c = C / G, Q order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmu_asr.models.memory.kernels.operators import impulse_response


def sequential_memory(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    readout: Tensor | None,
    skip: Tensor | None,
    state: Tensor,
    lens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Evaluate the memory frame by frame; shapes as in ``memory.legendre_memory``.

    ``Ad - I`` is what is applied, so that float32 keeps a long theta exact.
    """
    N, T, C = u.shape
    G, Q = Bd.shape
    eye = torch.eye(Q, dtype=torch.float64, device=Ad.device)
    change = (Ad.double() - eye).to(u.dtype).transpose(1, 2)  # (G, Q, Q)
    inject = Bd.to(u.dtype)[:, None, None]  # (G, 1, 1, Q)
    frames = u.reshape(N, T, G, C // G).permute(1, 2, 0, 3).unbind(0)  # T of (G, N, c)
    m = state.reshape(N, G, C // G, Q).transpose(0, 1)  # (G, N, c, Q)
    rows: list[Tensor] = []
    for t, frame in enumerate(frames):
        step = torch.bmm(m.reshape(G, -1, Q), change).view_as(m) + frame.unsqueeze(-1) * inject
        if lens is not None:
            step = step * (t < lens).to(u.dtype)[None, :, None, None]
        m = m + step
        full = m.transpose(0, 1).reshape(N, C, Q)
        rows.append(full if readout is None else (full * readout).sum(-1))
    shape = (N, 0, C, Q) if readout is None else (N, 0, C)
    y = torch.stack(rows, dim=1) if rows else u.new_zeros(shape)
    if skip is not None:
        y = y + skip * u
    return y, m.transpose(0, 1).reshape(N, C, Q)


def fft_memory(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    readout: Tensor | None,
    skip: Tensor | None,
    state: Tensor | None,
    lens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Evaluate the memory as one convolution over all T frames; shapes as in ``legendre_memory``.

    An initial state's decay is added by powers of Ad found by doubling.
    """
    N, T, C = u.shape
    G, Q = Bd.shape
    if T == 0:
        empty = u.new_zeros((N, 0, C, Q) if readout is None else (N, 0, C))
        return empty, u.new_zeros(N, C, Q) if state is None else state
    impulse = impulse_response(Ad.double(), Bd.double(), T).to(u.dtype)  # (G, T, Q)
    size = _fft_size(2 * T)
    spectrum = torch.fft.rfft(u.reshape(N, T, G, C // G), n=size, dim=1)  # (N, f, G, c)
    if readout is None:
        response = torch.fft.rfft(impulse, n=size, dim=1).transpose(0, 1)  # (f, G, Q)
        product = spectrum.unsqueeze(-1) * response[:, :, None]
        y = torch.fft.irfft(product, n=size, dim=1)[:, :T].reshape(N, T, C, Q)
    else:
        per_channel = torch.einsum("gtq,gcq->tgc", impulse, readout.reshape(G, C // G, Q))
        product = spectrum * torch.fft.rfft(per_channel, n=size, dim=0)
        y = torch.fft.irfft(product, n=size, dim=1)[:, :T].reshape(N, T, C)
    if state is not None:
        y = y + _free_response(state, Ad, readout, T).to(u.dtype)
    if skip is not None:
        y = y + skip * u
    return y, _end_state(u, impulse, Ad, state, lens)


def _free_response(state: Tensor, Ad: Tensor, readout: Tensor | None, T: int) -> Tensor:
    """Return what an initial state (N, C, Q) alone gives at frames 0..T-1, in float64."""
    N, C, Q = state.shape
    G = Ad.shape[0]
    trajectory = state.double().reshape(1, N, G, C // G, Q)
    trajectory = torch.einsum("tngcq,gpq->tngcp", trajectory, Ad.double())
    power = Ad.double()
    while trajectory.shape[0] < T:
        later = torch.einsum("tngcq,gpq->tngcp", trajectory, power)
        trajectory = torch.cat([trajectory, later])
        power = power @ power
    m = trajectory[:T].reshape(T, N, C, Q).transpose(0, 1)
    return m if readout is None else (m * readout.double()).sum(-1)


def _end_state(
    u: Tensor, impulse: Tensor, Ad: Tensor, state: Tensor | None, lens: Tensor | None
) -> Tensor:
    """Return each sequence's state after its own last frame, (N, C, Q)."""
    N, T, C = u.shape
    G, _, Q = impulse.shape
    if lens is None:
        lens = torch.full((N,), T, device=u.device)
    back = lens[:, None] - 1 - torch.arange(T, device=u.device)  # (N, T), newest frame first
    newest_first = u.gather(1, back.clamp(min=0)[:, :, None].expand(N, T, C))
    newest_first = newest_first * (back >= 0).to(u.dtype)[:, :, None]
    end = torch.einsum("ntgc,gtq->ngcq", newest_first.reshape(N, T, G, C // G), impulse)
    if state is not None:
        m = state.double().reshape(N, G, C // G, Q)
        power = Ad.double()
        for bit in range(T.bit_length()):
            moved = torch.einsum("ngcq,gpq->ngcp", m, power)
            m = torch.where(((lens >> bit) & 1).bool()[:, None, None, None], moved, m)
            power = power @ power
        end = end + m.to(u.dtype)
    return end.reshape(N, C, Q)


def _fft_size(at_least: int) -> int:
    """Return the smallest 2^a, 3*2^a or 5*2^a that holds ``at_least`` samples."""
    return min(base << max(0, (-(-at_least // base) - 1).bit_length()) for base in (1, 3, 5))
