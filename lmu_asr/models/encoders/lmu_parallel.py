"""The parallel LMU (Chilkuri and Eliasmith 2021): one memory a layer, all frames at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmu_asr.models.encoders.lmu import FORMS
from lmu_asr.options import opt

if TYPE_CHECKING:
    from lmu_asr.config import ModelConfig
    from lmu_asr.models.encoder import Encoder


@dataclass(frozen=True)
class Options:
    """The section ``model.lmu_parallel``."""

    memory_order: int = opt(
        8, "order Q of the Legendre memory: coefficients per window", min=1, max=1024
    )
    layer_thetas: list[float] = opt(
        [4.0, 8.0, 16.0, 32.0],
        "window of each layer, in frames after subsampling; the list repeats for more layers",
        min=1.0,
        items=(1, 1000),
    )
    trainable_theta: bool = opt(
        False, "train the windows; the memory is then computed in chunks, which is slower"
    )
    hidden: int = opt(0, "hidden units; 0: model.dim", min=0, max=8192)
    memory_form: str = opt(
        "auto",
        "how the memory is computed; auto: the fastest for the size. All give the same result",
        choices=FORMS,
    )


def build(config: ModelConfig, options: Options, input_dim: int) -> Encoder:
    """Return the encoder for frames of ``input_dim`` features."""
    from lmu_asr.models.lmu import ParallelLmuMixer
    from lmu_asr.models.stack import make_recurrent_stack

    hidden, thetas = options.hidden or config.dim, options.layer_thetas

    def make_mixer(i: int, scale: float) -> ParallelLmuMixer:
        return ParallelLmuMixer(
            config.dim,
            hidden,
            options.memory_order,
            thetas[i % len(thetas)],
            options.memory_form,
            scale,
            options.trainable_theta,
        )

    return make_recurrent_stack(config, input_dim, make_mixer)
