"""Augmentation of batches of log-mel features: SpecAugment, and noise added in the mel domain.

Shapes: N batch, T frames, F mel bins, K masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmu_asr.config import AugmentConfig

FRAMES_A_SHARE = 1000  # time masks are counted per 10 s or part


def spec_augment_each(
    features: Tensor, feature_lens: Tensor, config: AugmentConfig, seeds: Sequence[int]
) -> Tensor:
    """Mask bands of time and of frequency (Park et al. 2019), without time warping.

    Masked values become the utterance's mean of their mel bin, so that they are near zero after
    normalisation. At most ``max_time_fraction`` of an utterance is masked in time. The masks of an
    utterance follow its seed alone, whatever else is in the batch.

    Args:
        features: (N, T, F) float32 on the CPU; not changed.
        feature_lens: (N,) int64, valid frames.
        config: number and width of the masks.
        seeds: N seeds.

    Returns:
        Masked features (N, T, F); padding as it was.
    """
    if not config.spec_augment:
        return features
    lens = [int(length) for length in feature_lens]
    draws = _draw_each(lens, config, seeds)
    time = _edges(_widest_times(feature_lens, config, draws[0]), feature_lens[:, None], draws[0])
    frequency = _edges(*_widest_bins(features, config), draws[1])
    masked = features.clone()
    for row, length, times, bins in zip(masked, lens, time, frequency, strict=True):
        valid = row[:length]  # (T, F)
        mean = (valid[None].sum(dim=1) / max(length, 1))[0].numpy()  # (F,)
        _fill(valid.numpy(), mean, times, bins)
    return masked


def _draw_each(
    lens: Sequence[int], config: AugmentConfig, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Uniform draws (2, N, K) of time and of frequency masks; zeros where an utterance has fewer."""
    counts = [config.time_masks * -(-length // FRAMES_A_SHARE) for length in lens]
    time = torch.zeros(2, len(lens), max(counts, default=0))
    frequency = torch.zeros(2, len(lens), config.freq_masks)
    generator = torch.Generator()
    for row, (count, seed) in enumerate(zip(counts, seeds, strict=True)):
        generator.manual_seed(seed)
        time[:, row, :count] = torch.rand((2, 1, count), generator=generator)[:, 0]
        frequency[:, row] = torch.rand((2, 1, config.freq_masks), generator=generator)[:, 0]
    return time, frequency


def _fill(
    row: NDArray[np.float32],
    mean: NDArray[np.float32],
    times: Iterable[tuple[int, int]],
    bins: Iterable[tuple[int, int]],
) -> None:
    """Set bands of ``row`` (T, F) to ``mean`` (F,)."""
    for start, width in times:
        row[start : start + width] = mean
    for start, width in bins:
        row[:, start : start + width] = mean[start : start + width]


def _positions(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device)[None, :]


def _widest_times(lens: Tensor, config: AugmentConfig, draws: Tensor) -> Tensor:
    """(N, K), widest allowed time masks in frames; 0 beyond an utterance's own number of masks."""
    own_count = config.time_masks * ((lens + FRAMES_A_SHARE - 1) // FRAMES_A_SHARE)  # (N,)
    budget = (lens * config.max_time_fraction / own_count.clamp(min=1)).floor()
    widest = budget.clamp(max=config.time_mask_frames)[:, None]  # (N, 1)
    return widest * (_positions(draws.shape[2], lens) < own_count[:, None])


def _widest_bins(features: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Widest frequency mask, and number of bins, each (1, 1)."""
    bins = torch.full((1, 1), features.shape[2], device=features.device)
    widest = torch.full((1, 1), float(config.freq_mask_bins), device=features.device)
    return widest.clamp(max=bins), bins


def _placed(widest: Tensor, lens: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """First place and width (N, K) of bands, uniform up to ``widest`` inclusive, within ``lens``."""
    width = (draws[0] * (widest + 1)).floor() * (widest > 0)
    return (draws[1] * (lens - width + 1)).floor(), width


def _edges(widest: Tensor, lens: Tensor, draws: Tensor) -> list[list[tuple[int, int]]]:
    """First place and width of each utterance's bands."""
    both = torch.stack(_placed(widest, lens, draws), dim=2).to(torch.int64)  # (N, K, 2)
    return [[(start, width) for start, width in row if width] for row in both.tolist()]
