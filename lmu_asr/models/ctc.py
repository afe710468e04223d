"""The CTC head. Legend: N batch, T frames, D model width, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmu_asr.models.layers import init_linear


class CtcHead(nn.Module):
    """Linear layer and log-softmax over the vocabulary; the blank is token 0."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        """``vocab_size``: tokens, blank among them."""
        super().__init__()
        self.linear = nn.Linear(dim, vocab_size)
        init_linear(self.linear, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, T, D) to log-probabilities (N, T, V), float32, base e."""
        return torch.log_softmax(self.linear(x).float(), dim=-1)
