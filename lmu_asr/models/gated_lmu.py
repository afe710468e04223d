"""The Legendre memory of our speech block: many channels, a read-out for each, and a gate.

Legend: N batch, T frames, D model width, C memory channels, K look-ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmu_asr.models.layers import init_linear, mask_frames
from lmu_asr.models.memory.kernels.elementwise import silu_gate
from lmu_asr.models.memory.module import LegendreMemory
from lmu_asr.models.mixers import Mixer, State


class DepthwiseConv(nn.Module):
    """Depthwise convolution over time plus the identity: causal, or centred on each frame."""

    def __init__(self, channels: int, kernel: int, causal: bool) -> None:
        """``kernel``: width in frames, odd when centred."""
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel))
        nn.init.normal_(self.weight, std=0.5 * kernel**-0.5)

    def forward(self, u: Tensor) -> Tensor:
        """Map u (N, T, C) to (N, T, C)."""
        before = self.kernel - 1 if self.causal else (self.kernel - 1) // 2
        return self.convolve(F.pad(u, (0, 0, before, self.kernel - 1 - before))) + u

    def convolve(self, u: Tensor) -> Tensor:
        """Map u (N, T + kernel - 1, C) to (N, T, C), without the identity."""
        x = u.transpose(1, 2)  # (N, C, T)
        return F.conv1d(x, self.weight, groups=self.weight.shape[0]).transpose(1, 2)


class GatedLmu(Mixer):
    """``Wo (lmu(Wv x) * silu(Wg x))`` with a depthwise Legendre memory.

    A and B of every channel are those of the Legendre delay system (Voelker et al. 2019) at the
    theta of its group; read-out and skip are learnt. Look-ahead K reads the memory at t + K.
    Bidirectional adds a second memory that runs from the last frame to the first.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        order: int,
        thetas: Sequence[float],
        *,
        conv_kernel: int = 0,
        lookahead: int = 0,
        bidirectional: bool = False,
        trainable_theta: bool = False,
        form: str = "auto",
        out_scale: float = 1.0,
    ) -> None:
        """``thetas``: window in frames of each group of channels; ``form``: see ``memory``."""
        super().__init__()
        self.dim, self.channels = dim, channels
        self.lookahead = lookahead
        self.window = max(thetas) + lookahead + max(conv_kernel - 1, 0)
        self.value = nn.Linear(dim, channels, bias=False)
        self.gate = nn.Linear(dim, channels, bias=False)
        self.output = nn.Linear(channels, dim, bias=False)
        self.conv = DepthwiseConv(channels, conv_kernel, not bidirectional) if conv_kernel else None
        make = partial(
            LegendreMemory, channels, order, thetas, trainable_theta=trainable_theta, form=form
        )
        self.memory = make()
        # the skip of the first memory already adds the frame itself
        self.back = make(skip=False) if bidirectional else None
        init_linear(self.value)
        init_linear(self.gate)
        init_linear(self.output, out_scale)

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """See :meth:`Mixer.forward`."""
        u, gate = self.value(x), self.gate(x)
        # only a layer that reads later frames can bring padding into valid ones
        exposed = self.lookahead or self.back is not None
        u = mask_frames(u, lens) if exposed else u
        if self.conv is not None:
            u = self.conv(u)
            u = mask_frames(u, lens) if exposed else u
        y = self._ahead(u)
        if self.back is not None:
            # padding comes first when flipped, and is zero here, so the memory starts empty
            y = y + self.back(u.flip(1))[0].flip(1)
        return self.output(silu_gate(y, gate))

    def _ahead(self, u: Tensor) -> Tensor:
        if not self.lookahead:
            return self.memory(u)[0]
        # zeros stand for the frames after the end, as in flush
        return self.memory(F.pad(u, (0, 0, 0, self.lookahead)))[0][:, self.lookahead :]

    def init_state(self, n: int, device: torch.device, dtype: torch.dtype) -> State:
        """Memory, inputs the convolution still needs, gates that wait, outputs still to drop."""
        kernel = 1 if self.conv is None else self.conv.kernel
        before = torch.zeros(n, kernel - 1, self.channels, device=device, dtype=dtype)
        gates = torch.zeros(n, 0, self.channels, device=device, dtype=dtype)
        return self.memory.init_state(n).to(device), before, gates, self.lookahead

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Mixer.step`."""
        memory, before, gates, drop = state
        u, gate = self.value(x), self.gate(x)
        if self.conv is not None:
            whole = torch.cat([before, u], dim=1)
            u = self.conv.convolve(whole) + u
            before = whole[:, whole.shape[1] - before.shape[1] :]
        y, memory = self.memory(u, None, memory)
        if not self.lookahead:
            return self.output(silu_gate(y, gate)), (memory, before, gates, 0)
        y, gates, drop = self._delayed(y, torch.cat([gates, gate], dim=1), drop)
        return y, (memory, before, gates, drop)

    def flush(self, state: State) -> Tensor:
        """See :meth:`Mixer.flush`: the memory runs on over zeros."""
        memory, _, gates, drop = state
        zeros = gates.new_zeros(gates.shape[0], self.lookahead, self.channels)
        return self._delayed(self.memory(zeros, None, memory)[0], gates, drop)[0]

    def _delayed(self, y: Tensor, gates: Tensor, drop: int) -> tuple[Tensor, Tensor, int]:
        skipped = min(drop, y.shape[1])
        y = y[:, skipped:]
        ready = y.shape[1]
        y = self.output(silu_gate(y, gates[:, :ready]))
        return y, gates[:, ready:], drop - skipped
