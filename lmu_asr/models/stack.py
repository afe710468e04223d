"""The encoder that most are made of: subsampling, a stack of layers, a final norm; offline and streams.

Legend: N batch, T input frames, T' frames after subsampling, F features, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmu_asr.config import ModelConfig
from lmu_asr.models.blocks import Block
from lmu_asr.models.encoder import Encoder
from lmu_asr.models.layers import Residual, RMSNorm, SwiGLU
from lmu_asr.models.mixers import Bidirectional, Mixer, State
from lmu_asr.models.subsampling import Subsampling

MakeLayer = Callable[[int], nn.Module]
"""Layer i, from 0: ``(x (N, T', D), lens (N,) or None) -> (N, T', D)``; a Block where it streams."""

MakeMixer = Callable[[int, float], Mixer]
"""Mixer of layer i, from 0; the scale multiplies the initial weights of its output."""


class Stack(Encoder):
    """Subsampling, a stack of layers and a final norm.

    It streams where every layer is causal up to its look-ahead.
    """

    def __init__(
        self,
        config: ModelConfig,
        input_dim: int,
        make_layer: MakeLayer,
        before: Callable[[Tensor], Tensor] | None = None,
        why_offline: str = "",
    ) -> None:
        """``before`` changes the input (N, T', D) of layer 0; ``why_offline``: layers do not stream."""
        super().__init__(input_dim, config.dim, config.subsampling)
        self.subsampling = Subsampling(
            input_dim,
            config.subsampling_channels,
            config.dim,
            config.subsampling,
            config.frontend,
        )
        self.layers = nn.ModuleList(make_layer(i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.grad_checkpoint = config.grad_checkpoint
        self.before = before
        self.streaming = not config.bidirectional and not why_offline
        self.why_offline = (
            why_offline or "a bidirectional encoder does not stream: set model.bidirectional=false"
        )
        self._sides = 2 if config.bidirectional else 1

    @property
    def receptive_field(self) -> float:  # type: ignore[override]
        """See :class:`Encoder`; a Legendre memory counts with its window theta."""
        windows = [
            getattr(getattr(layer, "mixer", None), "window", math.inf) for layer in self.layers
        ]
        context = self._sides * sum(windows) * self.subsampling_factor
        return self.subsampling.receptive_field + context

    @property
    def latency_frames(self) -> float:  # type: ignore[override]
        """See :class:`Encoder`."""
        if not self.streaming:
            return math.inf
        ahead = sum(block.mixer.lookahead for block in self._blocks())
        return self.subsampling_factor * (1 + ahead)

    def outputs(
        self, x: Tensor, x_lens: Tensor | None = None, taps: Sequence[int] = ()
    ) -> tuple[list[Tensor], Tensor]:
        """See :meth:`Encoder.outputs`; each after the final norm."""
        lens = self.checked_lens(x, x_lens)
        mask = None if x_lens is None else lens
        x = self.dropout(self.subsampling(x, mask))  # (N, T, F) -> (N, T', D)
        lens = self.output_lens(lens)
        mask = None if x_lens is None else lens
        if self.before is not None:
            x = self.before(x)
        tapped = []
        for number, layer in enumerate(self.layers, 1):
            if self.grad_checkpoint and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, mask, use_reentrant=False)
            else:
                x = layer(x, mask)
            if number in taps:
                tapped.append(self.norm(x))
        return [self.norm(x), *tapped], lens

    def init_state(self, n: int, device: torch.device | str | None = None) -> State:
        """See :meth:`Encoder.init_state`."""
        if not self.streaming:
            return super().init_state(n, device)  # says why
        weight = self.norm.weight
        place = torch.device(device) if device is not None else weight.device
        layers = [block.init_state(n, place, weight.dtype) for block in self._blocks()]
        return self.subsampling.init_state(n, place, weight.dtype), layers

    def step(self, chunk: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Encoder.step`."""
        if not self.streaming:
            return super().step(chunk, state)
        self.checked_lens(chunk, None)
        x, front = self.subsampling.step(chunk, state[0])
        x, layers = self._run(x, state[1])
        return self.norm(x), (front, layers)

    def flush(self, state: State) -> tuple[Tensor, State]:
        """See :meth:`Encoder.flush`."""
        if not self.streaming:
            return super().flush(state)
        x = self.subsampling.flush(state[0])
        for block, inner in zip(self._blocks(), state[1], strict=True):
            if x.shape[1] > 0:
                x, inner = block.step(x, inner)
            # what one layer still owed runs through the layers after it, which then flush in turn
            x = torch.cat([x, block.flush(inner)], dim=1)
        return self.norm(x), self.init_state(x.shape[0], x.device)

    def _run(self, x: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        after = list(states)
        for i, block in enumerate(self._blocks()):
            # no frame is ready yet, and a step takes one at the least
            if x.shape[1] == 0:
                break
            x, after[i] = block.step(x, states[i])
        return x, after

    def _blocks(self) -> list[Block]:
        """The layers of an encoder that streams."""
        return cast("list[Block]", list(self.layers))


def make_stack(config: ModelConfig, input_dim: int, make_mixer: MakeMixer) -> Stack:
    """A stack of pre-norm blocks, each a mixer and a gated feed-forward."""
    # two branches a layer add up: smaller initial weights keep their sum alike at any depth
    hidden, scale = round(config.ff_mult * config.dim), (2 * config.num_layers) ** -0.5

    def make_layer(i: int) -> Block:
        # the feed-forward is drawn before the mixer: the order decides the weights of a seed
        ff = SwiGLU(config.dim, hidden, scale) if hidden else None
        residual = Residual(config.dropout, drop_rate(config, i))
        return Block(make_mixer(i, scale), config.dim, ff, residual)

    return Stack(config, input_dim, make_layer)


def make_recurrent_stack(config: ModelConfig, input_dim: int, make_mixer: MakeMixer) -> Stack:
    """As :func:`make_stack`, of mixers that know the past alone: two a layer when bidirectional."""

    def make_sides(i: int, scale: float) -> Mixer:
        if not config.bidirectional:
            return make_mixer(i, scale)
        return Bidirectional(lambda: make_mixer(i, 1.0), config.dim, scale)

    return make_stack(config, input_dim, make_sides)


def drop_rate(config: ModelConfig, i: int) -> float:
    """Stochastic depth of layer i, from 0: rising linearly to ``model.stochastic_depth``."""
    return config.stochastic_depth * i / max(config.num_layers - 1, 1)
