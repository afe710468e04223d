"""Causal convolutional subsampling in time by 2, 4 or 8.

Each stage is a convolution of stride 2 and width 4 in time. ``linear``: over all features at once,
as plain matrix products: pairs of frames are stacked and one product gives what each pair sends to
its own output frame and to the next one. ``conv2d``: over time and mel bins, so that what is learnt
at one frequency holds at its neighbours, with one product to the model's width at the end.

Legend: N batch, T input frames, F features, B mel bins, C channels, D model width.
"""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmu_asr.models.layers import init_linear, mask_frames

StageState = tuple[Tensor, Tensor]  # frames left over (N, r, F), what the last pair sends on (N, X)


class ConvStage(nn.Module):
    """Convolution of stride 2 and width 4 that sees no later frame than its own pair."""

    stride = 2

    def __init__(self, inputs: int, outputs: int) -> None:
        """``inputs``, ``outputs``: features of a frame."""
        super().__init__()
        self.inputs, self.outputs, self.carried = inputs, outputs, outputs
        self.product = nn.Linear(self.stride * inputs, 2 * outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        # two products add up in every output frame, so each has half the variance
        init_linear(self.product, 0.5**0.5)

    def forward(self, x: Tensor, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map x (N, 2T, F) to (N, T, C); ``last`` (N, C) comes from the pair before, else zero.

        Returns the output and what the final pair sends on.
        """
        N, T, _ = x.shape
        own, ahead = self.product(x.reshape(N, T // self.stride, -1)).chunk(2, dim=-1)
        first = own.new_zeros(N, self.outputs) if last is None else last.to(own.dtype)
        # shifted by one output frame: what each pair sends goes to the pair after it
        before = torch.cat([first[:, None], ahead[:, :-1]], dim=1)
        return own + before + self.bias, ahead[:, -1]


class Conv2dStage(nn.Module):
    """Convolution over time (width 4, stride 2, no later frame than its own pair) and mel bins.

    Width 3 and stride 2 in mel bins. A frame holds its bins one after the other, all channels of a
    bin together, so that no copy stands between the stages.
    """

    stride = 2

    def __init__(self, bins: int, channels: int, outputs: int) -> None:
        """``bins``, ``channels``: of an input frame; ``outputs``: channels of an output frame."""
        super().__init__()
        self.bins, self.channels = bins, channels
        self.inputs, self.outputs = bins * channels, -(-bins // 2) * outputs
        self.carried = self.stride * self.inputs
        self.conv = nn.Conv2d(channels, outputs, (4, 3), self.stride, (0, 1))
        nn.init.normal_(self.conv.weight, std=(12 * channels) ** -0.5)
        nn.init.zeros_(cast(Tensor, self.conv.bias))

    def forward(self, x: Tensor, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map x (N, 2T, B * C) to (N, T, B / 2 * C'); ``last``: the pair before, else zero.

        Returns the output and the final pair (N, 2 * B * C).
        """
        N = x.shape[0]
        before = x.new_zeros(N, self.carried) if last is None else last.to(x.dtype)
        x = torch.cat([before.reshape(N, self.stride, -1), x], dim=1)
        image = x.view(N, -1, self.bins, self.channels).permute(0, 3, 1, 2)  # (N, C, T, B)
        y = self.conv(image).permute(0, 2, 3, 1)  # (N, T, B, C)
        return y.reshape(N, y.shape[1], -1), x[:, -self.stride :].reshape(N, -1)


class Subsampling(nn.Module):
    """A stack of stages with SiLU between: (N, T, F) to (N, ceil(T / factor), D)."""

    def __init__(
        self, inputs: int, channels: int, dim: int, factor: int, frontend: str = "linear"
    ) -> None:
        """``inputs``: features; ``channels``: width between stages; ``factor``: 2, 4 or 8.

        ``frontend``: ``linear`` (:class:`ConvStage`) or ``conv2d`` (:class:`Conv2dStage`, and a
        linear layer after the last).
        """
        super().__init__()
        count = int(math.log2(factor))
        self.inputs, self.dim, self.factor = inputs, dim, factor
        self.project: nn.Linear | None = None
        if frontend == "conv2d":
            self.stages = _conv2d_stages(inputs, channels, count)
            self.project = nn.Linear(cast(Conv2dStage, self.stages[-1]).outputs, dim)
            init_linear(self.project)
            return
        widths = [inputs, *[channels] * (count - 1), dim]
        self.stages = nn.ModuleList(ConvStage(a, b) for a, b in itertools.pairwise(widths))

    @property
    def receptive_field(self) -> int:
        """Input frames that one output frame depends on."""
        field = 1
        for _ in self.stages:
            field = (field - 1) * 2 + 4
        return field

    def output_lens(self, lens: Tensor) -> Tensor:
        """Lengths after subsampling: ``ceil(lens / factor)``."""
        return torch.div(lens + self.factor - 1, self.factor, rounding_mode="floor")

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """Map x (N, T, F) to (N, T', D); frames beyond ``lens`` (N,) count as zeros."""
        for i, stage in enumerate(self.stages):
            # before every stage, since the bias of the one before makes padding non-zero
            x = mask_frames(x, lens)
            if x.shape[1] % 2:
                x = F.pad(x, (0, 0, 0, 1))
            x = self._activate(stage(x)[0], i)
            lens = None if lens is None else torch.div(lens + 1, 2, rounding_mode="floor")
        return self._projected(x)

    def init_state(self, n: int, device: torch.device, dtype: torch.dtype) -> list[StageState]:
        """State of ``n`` streams before their first frame."""
        return [
            (
                torch.zeros(n, 0, stage.inputs, device=device, dtype=dtype),
                torch.zeros(n, stage.carried, device=device, dtype=dtype),
            )
            for stage in self._stages()
        ]

    def step(self, x: Tensor, state: list[StageState]) -> tuple[Tensor, list[StageState]]:
        """Take the next frames x (N, t, F) of each stream; return the output frames that are done."""
        after = []
        for i, (stage, (rest, last)) in enumerate(zip(self._stages(), state, strict=True)):
            x, new = self._stage_step(i, stage, torch.cat([rest, x], dim=1), last)
            after.append(new)
        return self._projected(x), after

    def flush(self, state: list[StageState]) -> Tensor:
        """Return the output frame (N, 0 or 1, D) that the end of the stream completes."""
        x = state[0][0][:, :0]
        for i, (stage, (rest, last)) in enumerate(zip(self._stages(), state, strict=True)):
            x = torch.cat([rest, x], dim=1)
            x = F.pad(x, (0, 0, 0, x.shape[1] % 2))
            x, _ = self._stage_step(i, stage, x, last)
        return self._projected(x)

    def _stage_step(
        self, i: int, stage: Stage, x: Tensor, last: Tensor
    ) -> tuple[Tensor, StageState]:
        whole = x.shape[1] // 2 * 2
        if whole == 0:
            return x.new_zeros(x.shape[0], 0, stage.outputs), (x, last)
        y, last = stage(x[:, :whole], last)
        return self._activate(y, i), (x[:, whole:], last)

    def _stages(self) -> list[Stage]:
        return cast("list[Stage]", list(self.stages))

    def _activate(self, x: Tensor, i: int) -> Tensor:
        return F.silu(x) if i + 1 < len(self.stages) or self.project is not None else x

    def _projected(self, x: Tensor) -> Tensor:
        return x if self.project is None else self.project(x)


Stage = ConvStage | Conv2dStage


def _conv2d_stages(bins: int, channels: int, count: int) -> nn.ModuleList:
    stages = nn.ModuleList()
    for i in range(count):
        stages.append(Conv2dStage(bins, channels if i else 1, channels))
        bins = -(-bins // 2)
    return stages
