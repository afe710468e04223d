"""The matrices that carry a Legendre memory over a chunk of frames at once.

Legend: N batch, T frames, C channels, G groups of one theta, Q order, L chunk length, K chunks.
The system is ``m[t] = Ad m[t-1] + Bd u[t]``; everything here follows from Ad (G, Q, Q) and
Bd (G, Q), is computed in float64, and is differentiable in both.
"""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-30
"""What is smaller counts as zero: denormal numbers slow a processor many times."""


@dataclass(frozen=True)
class ChunkOperators:
    """What one chunk of L frames does to the state, and what the state does to the chunk.

    impulse (G, L, Q) holds ``Ad**s Bd``; powers (G, L / stride, Q, Q) holds ``Ad**(stride (i+1))``.
    carry (G, Q, Q) is ``Ad**L`` in float64, because at long theta rounding it would change theta
    and because errors add up over the chunks. change (G, L + Q, Q) maps [inputs | state] to the
    change of the state: the reversed impulse response above ``(Ad**L - I)`` transposed.
    """

    powers: Tensor
    impulse: Tensor
    carry: Tensor
    change: Tensor

    @property
    def length(self) -> int:
        """Frames in a chunk."""
        return self.impulse.shape[1]

    @property
    def order(self) -> int:
        """Q."""
        return self.impulse.shape[2]

    @property
    def inject(self) -> Tensor:
        """What a chunk's inputs add to the state at its end, (G, L, Q)."""
        return self.change[:, : self.length]

    @functools.cached_property
    def lifted(self) -> Tensor:
        """The powers as [q, i, p], (G, Q, L / stride, Q), for a product with a dense read-out."""
        with torch.inference_mode(False):  # kept: training may need it later
            return self.powers.permute(0, 3, 1, 2).contiguous()

    @functools.cached_property
    def memory_output(self) -> Tensor:
        """The map from [inputs | state] to the memory at every ``stride``-th frame.

        (G, L + Q, M * Q) with M = L / stride.
        """
        stride = self.length // self.powers.shape[1]
        with torch.inference_mode(False):
            inner = toeplitz(self.impulse)[:, :, stride - 1 :: stride]  # (G, j, i, Q)
            return torch.cat([inner, self.lifted], dim=1).flatten(2)


def toeplitz(response: Tensor) -> Tensor:
    """Turn responses at lags 0..L-1, (..., L, M), into (..., j, i, M) = response[i - j]."""
    L = response.shape[-2]
    rows = [F.pad(response[..., : L - j, :], (0, 0, j, 0)) for j in range(L)]
    return torch.stack(rows, dim=-3)


def impulse_response(Ad: Tensor, Bd: Tensor, length: int) -> Tensor:
    """Return ``Ad**s Bd`` for s in 0..length-1, (G, length, Q), by doubling."""
    response = Bd.unsqueeze(1)  # (G, 1, Q)
    power = Ad
    while response.shape[1] < length:
        response = torch.cat([response, response @ power.transpose(1, 2)], dim=1)
        power = power @ power
    return response[:, :length]


def matrix_powers(Ad: Tensor, count: int) -> Tensor:
    """Return ``Ad**(i+1)`` for i in 0..count-1, (G, count, Q, Q), by doubling."""
    powers = Ad.unsqueeze(1)
    while powers.shape[1] < count:
        powers = torch.cat([powers, powers @ powers[:, -1:]], dim=1)
    return powers[:, :count]


def build_operators(
    Ad: Tensor, Bd: Tensor, length: int, dtype: torch.dtype, stride: int = 1
) -> ChunkOperators:
    """Compute the operators of chunks of ``length`` frames in float64 and cast them to ``dtype``.

    ``stride`` divides the length; powers of Ad are then kept only at its multiples. Entries too
    small to matter are flushed to zero, so that no product meets a denormal.
    """
    Ad, Bd = Ad.double(), Bd.double()
    leap = matrix_powers(Ad, stride)[:, -1]
    powers = matrix_powers(leap, length // stride)
    impulse = impulse_response(Ad, Bd, length)
    carry = powers[:, -1]
    eye = torch.eye(Ad.shape[-1], dtype=Ad.dtype, device=Ad.device)
    change = torch.cat([impulse.flip(1), (carry - eye).transpose(1, 2)], dim=1)
    parts = [_flushed(part).to(dtype).contiguous() for part in (powers, impulse, change)]
    return ChunkOperators(parts[0], parts[1], _flushed(carry), parts[2])


_CACHE: dict[int, tuple[weakref.ref[Tensor], dict[tuple[object, ...], ChunkOperators]]] = {}


def chunk_operators(
    Ad: Tensor, Bd: Tensor, length: int, dtype: torch.dtype, stride: int = 1
) -> ChunkOperators:
    """Return the operators of (Ad, Bd), kept as long as the tensor Ad lives when it is constant."""
    if Ad.requires_grad or Bd.requires_grad or Ad.is_inference() or Bd.is_inference():
        return build_operators(Ad, Bd, length, dtype, stride)
    entry = _CACHE.get(id(Ad))
    if entry is None or entry[0]() is not Ad:
        key = id(Ad)
        entry = (weakref.ref(Ad, lambda _: _CACHE.pop(key, None)), {})
        _CACHE[key] = entry
    made = entry[1]
    # versions, since a change in place keeps the id
    key2 = (id(Bd), Ad._version, Bd._version, length, dtype, stride, Ad.device)
    if key2 not in made:
        with torch.inference_mode(False), torch.no_grad():
            made[key2] = build_operators(Ad, Bd, length, dtype, stride)
    return made[key2]


def _flushed(x: Tensor) -> Tensor:
    return torch.where(x.abs() < TINY, torch.zeros_like(x), x)
