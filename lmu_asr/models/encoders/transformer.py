"""Control: a Transformer (Vaswani et al. 2017), pre-norm, with sinusoidal positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmu_asr.errors import ModelError
from lmu_asr.options import opt

if TYPE_CHECKING:
    from lmu_asr.config import ModelConfig
    from lmu_asr.models.encoder import Encoder


@dataclass(frozen=True)
class Options:
    """The section ``model.transformer``."""

    num_heads: int = opt(4, "attention heads; must divide model.dim", min=1, max=64)


def build(config: ModelConfig, options: Options, input_dim: int) -> Encoder:
    """Return the encoder for frames of ``input_dim`` features.

    Raises:
        ModelError: the width does not divide into the heads.
    """
    from lmu_asr.models.controls import TransformerLayer, add_positions
    from lmu_asr.models.stack import Stack, drop_rate

    if config.dim % options.num_heads:
        raise ModelError(
            f"model.dim={config.dim} does not divide by "
            f"model.transformer.num_heads={options.num_heads}"
        )
    hidden = max(round(config.ff_mult * config.dim), 1)

    def make_layer(i: int) -> TransformerLayer:
        return TransformerLayer(
            config.dim,
            options.num_heads,
            hidden,
            config.dropout,
            causal=not config.bidirectional,
            drop_path=drop_rate(config, i),
        )

    # a stream would need the whole past at every step
    return Stack(config, input_dim, make_layer, before=add_positions, why_offline=WHY_OFFLINE)


WHY_OFFLINE = (
    "model.encoder=transformer does not stream: attention needs the whole past; "
    "use lmu, lmu_cell, lmu_parallel or lstm"
)
