"""Variants of equal size: choose the width that gives an encoder a stated number of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from lmu_asr.config import ModelConfig
from lmu_asr.errors import ModelError
from lmu_asr.models.describe import count_parameters
from lmu_asr.models.system import build_model

Widen = Callable[[int], ModelConfig]


def parameters_of(config: ModelConfig, input_dim: int, vocab_size: int) -> int:
    """Number of parameters of the model that ``config`` describes; leaves the seed alone."""
    with torch.random.fork_rng(devices=[]):
        return count_parameters(build_model(config, input_dim, vocab_size))


def match_parameters(
    config: ModelConfig, target: int, input_dim: int, vocab_size: int
) -> ModelConfig:
    """Return ``config`` with the width that brings it nearest to ``target`` parameters.

    The width is ``hidden`` for lstm, lmu_cell and lmu_parallel, and the feed-forward of lmu and
    transformer (``ff_mult``). Depth and everything else stay.

    Raises:
        ModelError: without its width the model is larger than ``target`` already.
    """
    widen = _widening(config)
    # The count is a polynomial of the second degree in the width: three points give it exactly.
    one, two, three = (parameters_of(widen(w), input_dim, vocab_size) for w in (1, 2, 3))
    a = (three - 2 * two + one) / 2
    b = two - one - 3 * a
    c = one - a - b
    width = _root(a, b, c - target)
    if width < 1:
        raise ModelError(
            f"model.encoder={config.encoder} with model.dim={config.dim} and "
            f"model.num_layers={config.num_layers} has {one} parameters at the least, over the "
            f"{target} asked for: lower one of them"
        )
    return widen(max(1, round(width)))


def _widening(config: ModelConfig) -> Widen:
    if config.encoder in ("lmu", "transformer"):
        return lambda width: replace(config, ff_mult=width / config.dim)
    return lambda width: replace(config, hidden=width)


def _root(a: float, b: float, c: float) -> float:
    """Return the greater root of ``a w^2 + b w + c``, a >= 0 and b > 0; below 0 where there is none."""
    if a == 0:
        return -c / b
    inside = b * b - 4 * a * c
    return (math.sqrt(inside) - b) / (2 * a) if inside >= 0 else -1.0
