"""Controls from torch's own modules under the encoder interface: LSTM and Transformer layers.

Legend: N batch, T frames, D model width, H hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmu_asr.models.layers import Residual, init_linear, length_mask
from lmu_asr.models.mixers import Mixer, State


class LstmMixer(Mixer):
    """``nn.LSTM`` of one direction, with a product back to the model width."""

    def __init__(self, dim: int, hidden: int, out_scale: float = 1.0) -> None:
        """``hidden``: H."""
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden, batch_first=True)
        self.output = nn.Linear(hidden, dim, bias=False)
        self.hidden = hidden
        init_linear(self.output, out_scale)
        with torch.no_grad():
            self.lstm.get_parameter("bias_hh_l0").zero_()
            self.lstm.get_parameter("bias_ih_l0").zero_()[hidden : 2 * hidden].fill_(
                1.0
            )  # open forget gates

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """See :meth:`Mixer.forward`."""
        return self.output(self.lstm(x)[0])

    def init_state(self, n: int, device: torch.device, dtype: torch.dtype) -> State:
        """Hidden and cell state, each (n, H), zero."""
        return tuple(torch.zeros(n, self.hidden, device=device, dtype=dtype) for _ in range(2))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Mixer.step`."""
        y, (h, c) = self.lstm(x, (state[0][None], state[1][None]))
        return self.output(y), (h[0], c[0])


class TransformerLayer(nn.Module):
    """``nn.TransformerEncoderLayer``, pre-norm, with masked padding; past only when causal."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float,
        causal: bool,
        drop_path: float = 0.0,
    ) -> None:
        """``hidden``: feed-forward width; ``causal``: attend to no later frame.

        ``drop_path``: share of utterances that skip the whole layer in training.
        """
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            dim, heads, hidden, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.causal = causal
        self.residual = Residual(0.0, drop_path) if drop_path else None

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """Map x (N, T, D) to (N, T, D); frames past ``lens`` (N,) are not attended to."""
        T = x.shape[1]
        # a row with nothing to attend to would be NaN, so one frame always stays
        padding = None if lens is None else ~length_mask(lens.clamp(min=1), T)
        later = None
        if self.causal:
            later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        y = self.layer(x, src_mask=later, src_key_padding_mask=padding)
        # torch's layer adds x itself, so what it adds is dropped as a whole
        return y if self.residual is None else self.residual(x, y - x)


def add_positions(x: Tensor) -> Tensor:
    """Add the sinusoids of each frame's index to x (N, T, D)."""
    return x + sinusoidal_positions(x.shape[1], x.shape[2], x.device).to(x.dtype)


def sinusoidal_positions(T: int, dim: int, device: torch.device) -> Tensor:
    """Return sines and cosines of the frame index (T, D) (Vaswani et al. 2017)."""
    t = torch.arange(T, device=device, dtype=torch.float32)[:, None]
    pair = torch.arange(0, dim, 2, device=device, dtype=torch.float32)
    angle = t * torch.exp(-pair * (9.210340371976184 / dim))  # 10000 ** (-pair / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim]
