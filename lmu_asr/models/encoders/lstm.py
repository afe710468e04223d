"""Control: a residual stack of LSTM layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmu_asr.options import opt

if TYPE_CHECKING:
    from lmu_asr.config import ModelConfig
    from lmu_asr.models.encoder import Encoder


@dataclass(frozen=True)
class Options:
    """The section ``model.lstm``."""

    hidden: int = opt(0, "hidden units; 0: model.dim", min=0, max=8192)


def build(config: ModelConfig, options: Options, input_dim: int) -> Encoder:
    """Return the encoder for frames of ``input_dim`` features."""
    from lmu_asr.models.controls import LstmMixer
    from lmu_asr.models.stack import make_recurrent_stack

    hidden = options.hidden or config.dim
    return make_recurrent_stack(
        config, input_dim, lambda _, scale: LstmMixer(config.dim, hidden, scale)
    )
