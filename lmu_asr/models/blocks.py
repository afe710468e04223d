"""The pre-norm residual block around every sequence layer but the Transformer's.

Legend: N batch, T frames, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmu_asr.models.layers import Residual, RMSNorm
from lmu_asr.models.mixers import Mixer, State


class Block(nn.Module):
    """``x + mixer(norm x)``, then ``x + feed_forward(norm x)``."""

    def __init__(self, mixer: Mixer, dim: int, ff: nn.Module | None, residual: Residual) -> None:
        """``mixer``: what mixes frames; ``ff``: what mixes features, or None."""
        super().__init__()
        self.mixer_norm = RMSNorm(dim)
        self.mixer = mixer
        self.ff_norm = RMSNorm(dim) if ff is not None else None
        self.ff = ff
        self.residual = residual

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """Map x (N, T', D) to (N, T', D)."""
        return self._feed_forward(self.residual(x, self.mixer(self.mixer_norm(x), lens)))

    def init_state(self, n: int, device: torch.device, dtype: torch.dtype) -> State:
        """State of the mixer, and the frames that wait for its delayed output."""
        waiting = torch.zeros(n, 0, self.mixer_norm.weight.shape[0], device=device, dtype=dtype)
        return self.mixer.init_state(n, device, dtype), waiting

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the next frames x (N, t, D); return those that are done."""
        inner, waiting = state
        y, inner = self.mixer.step(self.mixer_norm(x), inner)
        if self.mixer.lookahead:
            # the mixer answers late, so the residual waits until the same frames come out of it
            x = torch.cat([waiting, x], dim=1)
            x, waiting = x[:, : y.shape[1]], x[:, y.shape[1] :]
        return self._feed_forward(x + y), (inner, waiting)

    def flush(self, state: State) -> Tensor:
        """Return the frames (N, t, D) that wait for the end of the stream."""
        inner, waiting = state
        # a mixer without look-ahead has no flush, and nothing waits here
        if waiting.shape[1] == 0:
            return waiting
        return self._feed_forward(waiting + self.mixer.flush(inner))

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.ff is None or self.ff_norm is None:
            return x
        return self.residual(x, self.ff(self.ff_norm(x)))
