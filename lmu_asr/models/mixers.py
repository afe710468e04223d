"""What every sequence layer of an encoder offers: all frames at once, and frame by frame.

Legend: N batch, T frames, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmu_asr.models.layers import init_linear, reverse_frames

State = Any  # nested tuples and lists of tensors (N, ...) and of counters that all streams share


class Mixer(nn.Module):
    """Base of layers that mix frames: ``forward`` over whole utterances, ``step`` over chunks.

    A layer that looks ahead by ``lookahead`` frames returns its outputs that much later from
    ``step`` and hands out what is left by ``flush``.
    """

    lookahead: int = 0
    window: float = math.inf  # frames of the past that the output depends on by design

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """Map x (N, T, D) to (N, T, D); frames past ``lens`` (N,) never change valid ones."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def init_state(self, n: int, device: torch.device, dtype: torch.dtype) -> State:
        """State of ``n`` streams before their first frame."""
        raise TypeError(f"{type(self).__name__} does not stream")

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the next frames x (N, t, D), t > 0; return the outputs that are ready."""
        raise TypeError(f"{type(self).__name__} does not stream")

    def flush(self, state: State) -> Tensor:
        """Return the outputs that wait for frames after the end of the stream, (N, t, D)."""
        raise TypeError(f"{type(self).__name__} does not look ahead")


class Bidirectional(Mixer):
    """A layer and its copy that reads each utterance backwards; one product joins the two."""

    def __init__(self, make: Callable[[], Mixer], dim: int, out_scale: float) -> None:
        """``make`` builds one direction, (N, T, D) to (N, T, D)."""
        super().__init__()
        self.ahead, self.back = make(), make()
        self.join = nn.Linear(2 * dim, dim, bias=False)
        init_linear(self.join, out_scale)

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """See :meth:`Mixer.forward`."""
        backward = self.back(reverse_frames(x, lens), lens)
        both = torch.cat([self.ahead(x, lens), reverse_frames(backward, lens)], dim=-1)
        return self.join(both)
