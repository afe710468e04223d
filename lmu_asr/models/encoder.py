"""Every encoder of the toolkit behind one interface: offline over batches, and as a stream.

Legend: N batch, T input frames, T' frames after subsampling, F features, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmu_asr.config import ModelConfig
from lmu_asr.errors import ModelError
from lmu_asr.models.blocks import Block
from lmu_asr.models.controls import LstmMixer, TransformerLayer, sinusoidal_positions
from lmu_asr.models.gated_lmu import GatedLmu
from lmu_asr.models.layers import Residual, RMSNorm, SwiGLU
from lmu_asr.models.lmu import LmuCellMixer, ParallelLmuMixer
from lmu_asr.models.mixers import Bidirectional, Mixer, State
from lmu_asr.models.subsampling import Subsampling


class Encoder(nn.Module):
    """Subsampling, a stack of layers and a final norm.

    ``streaming`` says whether :meth:`step` works: every layer is causal up to its look-ahead.
    """

    def __init__(self, config: ModelConfig, input_dim: int) -> None:
        """``config``: the model section; ``input_dim``: features of an input frame."""
        super().__init__()
        self.input_dim, self.dim, self.kind = input_dim, config.dim, config.encoder
        self.subsampling = Subsampling(
            input_dim,
            config.subsampling_channels,
            config.dim,
            config.subsampling,
            config.frontend,
        )
        self.layers = nn.ModuleList(_make_layer(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.grad_checkpoint = config.grad_checkpoint
        self.bidirectional = config.bidirectional
        self.streaming = not config.bidirectional and config.encoder != "transformer"

    @property
    def subsampling_factor(self) -> int:
        """Input frames to one output frame."""
        return self.subsampling.factor

    @property
    def receptive_field(self) -> float:
        """Input frames that one output frame depends on; inf for recurrence and attention.

        A Legendre memory counts with its window theta.
        """
        windows = [
            getattr(getattr(layer, "mixer", None), "window", math.inf) for layer in self.layers
        ]
        sides = 2 if self.bidirectional else 1
        return self.subsampling.receptive_field + sides * sum(windows) * self.subsampling_factor

    @property
    def latency_frames(self) -> float:
        """Input frames from the first one of an output frame until that can be computed."""
        if not self.streaming:
            return math.inf
        ahead = sum(block.mixer.lookahead for block in self._blocks())
        return self.subsampling_factor * (1 + ahead)

    def output_lens(self, lens: Tensor) -> Tensor:
        """Output frames (N,) of inputs of ``lens`` (N,) frames."""
        return self.subsampling.output_lens(lens)

    def forward(self, x: Tensor, x_lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode features x (N, T, F) of ``x_lens`` (N,) frames: (N, T', D) and lengths (N,).

        Raises:
            ModelError: the shapes do not fit.
        """
        outputs, lens = self.outputs(x, x_lens)
        return outputs[0], lens

    def outputs(
        self, x: Tensor, x_lens: Tensor | None = None, taps: Sequence[int] = ()
    ) -> tuple[list[Tensor], Tensor]:
        """Encode as :meth:`forward`; return the output and those of the layers ``taps`` (from 1).

        Each (N, T', D) after the final norm, the last layer's first.
        """
        lens = self._checked_lens(x, x_lens)
        mask = None if x_lens is None else lens
        x = self.dropout(self.subsampling(x, mask))
        lens = self.output_lens(lens)
        mask = None if x_lens is None else lens
        if self.kind == "transformer":
            x = x + sinusoidal_positions(x.shape[1], self.dim, x.device).to(x.dtype)
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
        """State of ``n`` streams before their first frame.

        Raises:
            ModelError: this encoder does not stream.
        """
        self._need_streaming()
        weight = self.norm.weight
        place = torch.device(device) if device is not None else weight.device
        layers = [block.init_state(n, place, weight.dtype) for block in self._blocks()]
        return self.subsampling.init_state(n, place, weight.dtype), layers

    def step(self, chunk: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the next frames (N, t, F) of each stream, any t; return (N, t', D) and the state.

        Raises:
            ModelError: this encoder does not stream, or the chunk does not fit.
        """
        self._need_streaming()
        self._checked_lens(chunk, None)
        x, front = self.subsampling.step(chunk, state[0])
        x, layers = self._run(x, state[1])
        return self.norm(x), (front, layers)

    def flush(self, state: State) -> tuple[Tensor, State]:
        """End the streams: return the frames (N, t', D) still owed, and a fresh state."""
        self._need_streaming()
        x = self.subsampling.flush(state[0])
        for block, inner in zip(self._blocks(), state[1], strict=True):
            if x.shape[1] > 0:
                x, inner = block.step(x, inner)
            x = torch.cat([x, block.flush(inner)], dim=1)
        return self.norm(x), self.init_state(x.shape[0], x.device)

    def _run(self, x: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        after = list(states)
        for i, block in enumerate(self._blocks()):
            if x.shape[1] == 0:
                break
            x, after[i] = block.step(x, states[i])
        return x, after

    def _blocks(self) -> list[Block]:
        """The layers of an encoder that streams."""
        return cast("list[Block]", list(self.layers))

    def _checked_lens(self, x: Tensor, lens: Tensor | None) -> Tensor:
        if x.dim() != 3 or x.shape[2] != self.input_dim:
            raise ModelError(
                f"features of shape {tuple(x.shape)}: want (N, T, {self.input_dim}); "
                "features.num_mel_bins and the model must agree"
            )
        if lens is None:
            return torch.full((x.shape[0],), x.shape[1], device=x.device)
        if lens.shape != x.shape[:1]:
            raise ModelError(f"{tuple(lens.shape)} lengths for {x.shape[0]} utterances")
        return lens

    def _need_streaming(self) -> None:
        if self.streaming:
            return
        if self.kind == "transformer":
            raise ModelError(
                "model.encoder=transformer does not stream: attention needs the whole past; "
                "use lmu, lmu_cell, lmu_parallel or lstm"
            )
        raise ModelError("a bidirectional encoder does not stream: set model.bidirectional=false")


def build_encoder(config: ModelConfig, input_dim: int) -> Encoder:
    """Build the encoder that ``config`` describes for frames of ``input_dim`` features.

    Raises:
        ModelError: the options do not fit together.
    """
    _check_config(config)
    return Encoder(config, input_dim)


def _make_layer(config: ModelConfig, i: int) -> nn.Module:
    dim, hidden = config.dim, round(config.ff_mult * config.dim)
    if config.encoder == "transformer":
        return TransformerLayer(
            dim, config.num_heads, max(hidden, 1), config.dropout, not config.bidirectional
        )
    scale = (2 * config.num_layers) ** -0.5
    depth = config.stochastic_depth * i / max(config.num_layers - 1, 1)
    ff = SwiGLU(dim, hidden, scale) if hidden else None
    return Block(_make_mixer(config, i, scale), dim, ff, Residual(config.dropout, depth))


def _make_mixer(config: ModelConfig, i: int, scale: float) -> Mixer:
    dim, order = config.dim, config.memory_order
    hidden, theta = config.hidden or config.dim, config.thetas[i % len(config.thetas)]
    if config.encoder == "lmu":
        return GatedLmu(
            dim,
            round(config.expansion * dim),
            order,
            config.thetas,
            conv_kernel=config.conv_kernel,
            lookahead=config.lookahead,
            bidirectional=config.bidirectional,
            trainable_theta=config.trainable_theta,
            form=config.memory_form,
            out_scale=scale,
        )
    one = 1.0 if config.bidirectional else scale
    makers: dict[str, Callable[[], Mixer]] = {
        "lmu_cell": partial(LmuCellMixer, dim, hidden, order, theta, one),
        "lmu_parallel": partial(
            ParallelLmuMixer,
            dim,
            hidden,
            order,
            theta,
            config.memory_form,
            one,
            config.trainable_theta,
        ),
        "lstm": partial(LstmMixer, dim, hidden, one),
    }
    make = makers[config.encoder]
    return Bidirectional(make, dim, scale) if config.bidirectional else make()


def _check_config(config: ModelConfig) -> None:
    channels = round(config.expansion * config.dim)
    if config.encoder == "lmu" and channels % len(config.thetas):
        raise ModelError(
            f"{channels} memory channels (model.dim={config.dim} x model.expansion="
            f"{config.expansion}) do not divide into {len(config.thetas)} groups of model.thetas"
        )
    if config.encoder == "transformer" and config.dim % config.num_heads:
        raise ModelError(
            f"model.dim={config.dim} does not divide by model.num_heads={config.num_heads}"
        )
    if config.lookahead and (config.encoder != "lmu" or config.bidirectional):
        raise ModelError(
            f"model.lookahead={config.lookahead} is for model.encoder=lmu with "
            "model.bidirectional=false"
        )
    if config.bidirectional and config.conv_kernel and config.conv_kernel % 2 == 0:
        raise ModelError(f"model.conv_kernel={config.conv_kernel}: odd when bidirectional")
