"""The LMU encoder: blocks around a gated Legendre memory with many windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmu_asr.errors import ModelError
from lmu_asr.options import opt

if TYPE_CHECKING:
    from lmu_asr.config import ModelConfig
    from lmu_asr.models.encoder import Encoder

FORMS = ("auto", "sequential", "fft", "chunked", "compiled", "triton")


@dataclass(frozen=True)
class Options:
    """The section ``model.lmu``."""

    memory_order: int = opt(
        8, "order Q of each Legendre memory: coefficients per window", min=1, max=1024
    )
    thetas: list[float] = opt(
        [4.0, 8.0, 16.0, 32.0],
        "windows in frames after subsampling, one per channel group; their number must divide the channels",
        min=1.0,
        items=(1, 1000),
    )
    trainable_theta: bool = opt(
        False, "train the windows; the memory is then computed in chunks, which is slower"
    )
    expansion: float = opt(1.0, "memory channels, as a multiple of model.dim", min=0.25, max=4.0)
    conv_kernel: int = opt(
        0, "width of a depthwise convolution before the memory, in frames; 0: none", min=0, max=63
    )
    lookahead: int = opt(
        0,
        "future frames, after subsampling, that each layer uses; adds latency. For model.bidirectional=false",
        min=0,
        max=64,
    )
    memory_form: str = opt(
        "auto",
        "how the memory is computed; auto: the fastest for the size. All give the same result",
        choices=FORMS,
    )


def build(config: ModelConfig, options: Options, input_dim: int) -> Encoder:
    """Return the encoder for frames of ``input_dim`` features.

    Raises:
        ModelError: the options do not fit together.
    """
    from lmu_asr.models.gated_lmu import GatedLmu
    from lmu_asr.models.stack import make_stack

    channels = _checked_channels(config, options)

    def make_mixer(i: int, scale: float) -> GatedLmu:
        return GatedLmu(
            config.dim,
            channels,
            options.memory_order,
            options.thetas,
            conv_kernel=options.conv_kernel,
            lookahead=options.lookahead,
            bidirectional=config.bidirectional,
            trainable_theta=options.trainable_theta,
            form=options.memory_form,
            out_scale=scale,
        )

    return make_stack(config, input_dim, make_mixer)


def _checked_channels(config: ModelConfig, options: Options) -> int:
    """Channels of the memory, once everything fits."""
    channels = round(options.expansion * config.dim)
    if channels % len(options.thetas):
        raise ModelError(
            f"{channels} memory channels (model.dim={config.dim} x model.lmu.expansion="
            f"{options.expansion}) do not divide into {len(options.thetas)} groups of model.lmu.thetas"
        )
    if options.lookahead and config.bidirectional:
        raise ModelError(
            f"model.lmu.lookahead={options.lookahead} is for model.bidirectional=false"
        )
    if config.bidirectional and options.conv_kernel and options.conv_kernel % 2 == 0:
        raise ModelError(f"model.lmu.conv_kernel={options.conv_kernel}: odd when bidirectional")
    return channels
