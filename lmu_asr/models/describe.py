"""What a model costs and how late it answers, computed from its configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmu_asr.models.inference.quant import Int8Linear, PackedLinear
from lmu_asr.models.system import SpeechModel

CHANGES_NO_OUTPUT = True


@dataclass(frozen=True)
class Description:
    """Sizes of a model; milliseconds follow from the hop and window of its features.

    ``latency_ms``: from the first sample of an output frame until the frame can be computed;
    infinite, as ``state_bytes`` is None, for a model that does not stream.
    """

    encoder: str
    parameters: int
    subsampling_factor: int
    receptive_field_ms: float
    latency_ms: float
    state_bytes: int | None

    def __str__(self) -> str:
        """One line a quantity."""
        streams = self.state_bytes is not None
        latency = f"{self.latency_ms:.0f} ms" if streams else "the whole utterance"
        state = f"{self.state_bytes / 1024:.1f} KiB" if self.state_bytes is not None else "none"
        field = self.receptive_field_ms
        return "\n".join(
            [
                f"encoder          {self.encoder}",
                f"parameters       {self.parameters / 1e6:.3f} M",
                f"subsampling      {self.subsampling_factor}",
                f"receptive field  {'unbounded' if math.isinf(field) else f'{field:.0f} ms'}",
                f"streaming        {'yes' if streams else 'no'}",
                f"latency          {latency}",
                f"state a stream   {state}",
            ]
        )


def describe(
    model: SpeechModel, frame_shift_ms: float = 10.0, frame_length_ms: float = 25.0
) -> Description:
    """Describe ``model`` for features of the given hop and window; printable."""
    encoder = model.encoder
    overlap = frame_length_ms - frame_shift_ms
    state = state_bytes(model.init_state(1)) if model.streaming else None
    return Description(
        encoder=model.config.encoder,
        parameters=count_parameters(model),
        subsampling_factor=model.subsampling_factor,
        receptive_field_ms=encoder.receptive_field * frame_shift_ms + overlap,
        latency_ms=encoder.latency_frames * frame_shift_ms + overlap,
        state_bytes=None if state is None else state + _waiting_bytes(model),
    )


def count_parameters(model: nn.Module) -> int:
    """Number of trained values, those of packed and int8 layers among them."""
    own = sum(p.numel() for p in model.parameters())
    packed = [m for m in model.modules() if isinstance(m, (PackedLinear, Int8Linear))]
    biases = sum(m.out_features for m in packed if m.bias is not None)
    return own + sum(m.in_features * m.out_features for m in packed) + biases


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a streaming state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, (list, tuple)):
        return sum(state_bytes(part) for part in state)
    return 0


@torch.inference_mode()
def _waiting_bytes(model: SpeechModel) -> int:
    """Bytes by which the state grows once frames wait for their look-ahead."""
    fresh = model.init_state(1)
    # one frame short of the next output, when the subsampling holds the most as well
    frames = model.subsampling_factor * (int(model.encoder.latency_frames) + 1) - 1
    chunk = torch.zeros(
        1, frames, model.input_dim, dtype=model.mean.dtype, device=model.mean.device
    )
    return state_bytes(model.step(chunk, fresh)[1]) - state_bytes(fresh)
