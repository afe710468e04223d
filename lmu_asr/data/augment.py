"""Augmentation of batches of log-mel features: SpecAugment, and noise added in the mel domain.

Shapes: N batch, T frames, F mel bins, K masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmu_asr.config import AugmentConfig

FRAMES_A_SHARE = 1000  # time masks are counted per 10 s or part


def spec_augment(
    features: Tensor, feature_lens: Tensor, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Mask bands of time and of frequency (Park et al. 2019), without time warping.

    Masked values become the utterance's mean of their mel bin, so that they are near zero after
    normalisation. At most ``max_time_fraction`` of an utterance is masked in time.

    Args:
        features: (N, T, F) float32; not changed.
        feature_lens: (N,) int64, valid frames.
        config: number and width of the masks.
        generator: CPU generator; the same state gives the same masks.

    Returns:
        Masked features (N, T, F); padding as it was.
    """
    if not config.spec_augment:
        return features
    lens = feature_lens.to(features.device)
    time = _time_mask(features, lens, config, generator)  # (N, T)
    frequency = _frequency_mask(features, config, generator)  # (N, F)
    valid = _positions(features.shape[1], lens) < lens[:, None]  # (N, T)
    masked = (time[:, :, None] | frequency[:, None, :]) & valid[:, :, None]
    summed = (features * valid[:, :, None]).sum(dim=1)  # (N, F)
    mean = summed / lens.clamp(min=1)[:, None]
    return torch.where(masked, mean[:, None, :], features)


def _positions(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device)[None, :]


def _time_mask(
    features: Tensor, lens: Tensor, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """(N, T), true where masked: up to ``time_masks`` bands per 10 s or part."""
    shares = -(-features.shape[1] // FRAMES_A_SHARE)
    count = config.time_masks * shares
    size = features.shape[0], count
    own_count = config.time_masks * ((lens + FRAMES_A_SHARE - 1) // FRAMES_A_SHARE)  # (N,)
    budget = (lens * config.max_time_fraction / own_count.clamp(min=1)).floor()
    widest = budget.clamp(max=config.time_mask_frames)[:, None]  # (N, 1)
    used = _positions(count, lens) < own_count[:, None]  # (N, K)
    return _bands(features.shape[1], widest * used, lens[:, None], size, generator)


def _frequency_mask(features: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """(N, F), true where masked."""
    size = features.shape[0], config.freq_masks
    bins = torch.full((1, 1), features.shape[2], device=features.device)
    widest = torch.full((1, 1), float(config.freq_mask_bins), device=features.device)
    return _bands(features.shape[2], widest.clamp(max=bins), bins, size, generator)


def _bands(
    length: int, widest: Tensor, lens: Tensor, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """(N, length), true in ``size`` = (N, K) bands of uniform width up to ``widest`` inclusive."""
    draws = torch.rand((2, *size), generator=generator).to(lens.device)  # (2, N, K)
    width = (draws[0] * (widest + 1)).floor() * (widest > 0)
    start = (draws[1] * (lens - width + 1)).floor()
    positions = _positions(length, lens)[:, None, :]  # (1, 1, length)
    inside = (positions >= start[:, :, None]) & (positions < (start + width)[:, :, None])
    return inside.any(dim=1)
