"""What an encoder is: the interface that training, decoding and streams use, and how one is built.

An encoder is one file of :mod:`lmu_asr.models.encoders`, found by its name; nothing else is edited::

    @dataclass(frozen=True)
    class Options:                       # the section model.<name> of the configuration
        width: int = opt(3, "frames that one output sees", min=1)

    def build(config: ModelConfig, options: Options, input_dim: int) -> Encoder: ...

``build`` returns any :class:`Encoder`. Most are a :class:`lmu_asr.models.stack.Stack`, which adds the
subsampling, the final norm and streams, and asks for one layer after the other.

Legend: N batch, T input frames, T' frames after subsampling, F features, D model width.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lmu_asr.config import ModelConfig
from lmu_asr.errors import ModelError
from lmu_asr.models.mixers import State


class Encoder(nn.Module, ABC):
    """Base of all encoders: features (N, T, F) in, (N, T', D) out. :meth:`outputs` is the least.

    Attributes:
        input_dim: features F of an input frame.
        dim: width D of an output frame.
        subsampling_factor: input frames to one output frame.
        streaming: whether :meth:`init_state`, :meth:`step` and :meth:`flush` work.
        why_offline: what to tell the user where they do not.
        receptive_field: input frames that one output frame depends on; inf: no limit.
        latency_frames: input frames from the first one of an output frame until that can be
            computed; inf where the encoder does not stream.
        grad_checkpoint: whether layers are computed again in the backward pass; training sets it
            where memory is short, and an encoder may ignore it.
    """

    streaming = False
    why_offline = "this encoder does not stream"
    receptive_field = math.inf
    latency_frames = math.inf
    grad_checkpoint = False

    def __init__(self, input_dim: int, dim: int, subsampling_factor: int) -> None:
        super().__init__()
        self.input_dim, self.dim, self.subsampling_factor = input_dim, dim, subsampling_factor

    def output_lens(self, lens: Tensor) -> Tensor:
        """Output frames (N,) of inputs of ``lens`` (N,) frames: a last part of a frame counts."""
        return (lens + self.subsampling_factor - 1) // self.subsampling_factor

    @abstractmethod
    def outputs(
        self, x: Tensor, x_lens: Tensor | None = None, taps: Sequence[int] = ()
    ) -> tuple[list[Tensor], Tensor]:
        """Encode x (N, T, F) of ``x_lens`` (N,) frames; None: all are valid.

        Frames past a length never change a valid output.

        Returns:
            The output (N, T', D), then those of the inner layers ``taps`` (from 1); lengths (N,).

        Raises:
            ModelError: the shapes do not fit; see :meth:`checked_lens`.
        """

    def forward(self, x: Tensor, x_lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode features x (N, T, F) of ``x_lens`` (N,) frames: (N, T', D) and lengths (N,)."""
        outputs, lens = self.outputs(x, x_lens)
        return outputs[0], lens

    def init_state(self, n: int, device: torch.device | str | None = None) -> State:
        """State of ``n`` streams before their first frame.

        Raises:
            ModelError: this encoder does not stream.
        """
        raise ModelError(self.why_offline)

    def step(self, chunk: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the next frames (N, t, F) of each stream, any t; return (N, t', D) and the state.

        The input state is not modified. Raises as :meth:`init_state`.
        """
        raise ModelError(self.why_offline)

    def flush(self, state: State) -> tuple[Tensor, State]:
        """End the streams: return the frames (N, t', D) still owed, and a fresh state."""
        raise ModelError(self.why_offline)

    def checked_lens(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """Return the lengths (N,) of x (N, T, F), all T where they are None.

        Raises:
            ModelError: the shapes do not fit.
        """
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


def build_encoder(config: ModelConfig, input_dim: int) -> Encoder:
    """Build the encoder that ``config`` describes for frames of ``input_dim`` features.

    Raises:
        ModelError: the options do not fit together.
    """
    module = importlib.import_module(f"lmu_asr.models.encoders.{config.encoder}")
    return cast(Encoder, module.build(config, config.encoder_options, input_dim))
