"""Small parts that every encoder shares: masks, normalisation, feed-forward, dropped branches.

Legend: N batch, T frames, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmu_asr.models.memory.kernels.elementwise import dropped_sum, rms_norm, swiglu


def length_mask(lens: Tensor, T: int) -> Tensor:
    """Return (N, T) bool, true at the frames below each of ``lens`` (N,)."""
    return torch.arange(T, device=lens.device) < lens[:, None]


def mask_frames(x: Tensor, lens: Tensor | None) -> Tensor:
    """Zero the frames of x (N, T, D) at and after each of ``lens`` (N,); None: all are valid."""
    if lens is None:
        return x
    return x * length_mask(lens, x.shape[1]).to(x.dtype)[..., None]


def reverse_frames(x: Tensor, lens: Tensor | None) -> Tensor:
    """Reverse the valid frames of x (N, T, D) in time and leave its padding where it is."""
    if lens is None:
        return x.flip(1)
    t = torch.arange(x.shape[1], device=x.device)
    # padding stays at the end, so that a causal layer meets it last
    index = torch.where(t < lens[:, None], lens[:, None] - 1 - t, t)  # (N, T)
    return x.gather(1, index[..., None].expand_as(x))


class RMSNorm(nn.Module):
    """Divide each frame by its root mean square and scale it (Zhang and Sennrich 2019)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        """``dim``: features; ``eps`` keeps an all-zero frame at zero."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., D) over its last axis, in float32 at the least."""
        return rms_norm(x, self.weight, self.eps)


class SwiGLU(nn.Module):
    """Gated feed-forward ``W2 (silu(a) * b)``, ``[a, b] = W1 x`` (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int, out_scale: float = 1.0) -> None:
        """``out_scale`` multiplies the initial output weights."""
        super().__init__()
        self.w1 = nn.Linear(dim, 2 * hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        init_linear(self.w1)
        init_linear(self.w2, out_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        return self.w2(swiglu(self.w1(x)))


class Residual(nn.Module):
    """``x + branch`` with dropout and stochastic depth on the branch (Huang et al. 2016)."""

    def __init__(self, dropout: float, drop_path: float) -> None:
        """``dropout``: rate per element; ``drop_path``: rate per utterance."""
        super().__init__()
        self.dropout, self.drop_path = dropout, drop_path

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add the branch (N, T, D) to x; nothing is dropped when not training."""
        if not self.training:
            return x + branch
        if self.drop_path > 0:
            keep = 1.0 - self.drop_path
            # one draw an utterance; dividing by keep leaves the expected sum what it is
            kept = torch.rand(x.shape[0], 1, 1, device=x.device) < keep
            branch = branch * (kept.to(x.dtype) / keep)
        return dropped_sum(x, branch, self.dropout)


def init_linear(linear: nn.Linear, scale: float = 1.0) -> None:
    """Draw weights with variance ``scale**2 / fan_in`` and zero the bias."""
    nn.init.normal_(linear.weight, std=scale * linear.in_features**-0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
