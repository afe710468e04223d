"""SpecAugment: what is masked, how much, and that it follows its seeds."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import AugmentConfig
from lmu_asr.data.augment.spec_augment import spec_augment_each


def batch(lens: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(lens), max(lens), 80, generator=generator)
    return features, torch.tensor(lens)


def augment(features, lens, config, seed=1):
    return spec_augment_each(features, lens, config, [seed + row for row in range(len(lens))])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 2300), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(0, 60),
    st.integers(0, 3),
    st.integers(0, 90),
    st.floats(0.0, 0.5),
    st.integers(0, 100),
)
def test_limits(lens, time_masks, frames, freq_masks, bins, fraction, seed):
    config = AugmentConfig(
        time_masks=time_masks,
        time_mask_frames=frames,
        freq_masks=freq_masks,
        freq_mask_bins=bins,
        max_time_fraction=fraction,
    )
    features, feature_lens = batch(lens)
    before = features.clone()
    found = augment(features, feature_lens, config, seed)
    assert torch.equal(features, before)
    changed = found != features
    for row, length in zip(changed, lens, strict=True):
        assert not row[length:].any()
        if length == 1:  # the mean of one frame is that frame
            continue
        masked_bins = row[:length].all(dim=0)
        others = row[:length][:, ~masked_bins]
        masked_frames = others.any(dim=1)
        assert masked_bins.sum() <= freq_masks * min(bins, 80)
        if others.shape[1]:
            shares = -(-length // 1000)
            assert masked_frames.sum() <= min(fraction * length, time_masks * shares * frames)
            assert torch.equal(masked_frames, others.all(dim=1))


def test_masked_values_are_the_utterances_means():
    features, lens = batch([300, 200])
    found = augment(features, lens, AugmentConfig())
    for i, length in enumerate(lens):
        mean = features[i, :length].mean(dim=0).expand(int(length), -1)
        changed = found[i, :length] != features[i, :length]
        assert changed.any()
        torch.testing.assert_close(found[i, :length][changed], mean[changed])


def test_follows_the_seeds():
    features, lens = batch([500, 400, 300])
    config = AugmentConfig()
    assert torch.equal(augment(features, lens, config, 1), augment(features, lens, config, 1))
    assert not torch.equal(augment(features, lens, config, 1), augment(features, lens, config, 2))
    assert augment(features, lens, AugmentConfig(spec_augment=False)) is features


def test_widths_are_spread_over_their_range():
    features, lens = batch([1000] * 400)
    config = AugmentConfig(time_masks=1, freq_masks=0, max_time_fraction=1.0)
    found = augment(features, lens, config)
    widths = (found != features).any(dim=2).sum(dim=1).float()
    assert widths.min() == 0 and widths.max() == config.time_mask_frames
    assert abs(widths.mean() - 15.0) < 4 * (widths.std() / 20)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 2300), min_size=1, max_size=5),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 90),
    st.floats(0.0, 1.0),
    st.integers(0, 100),
)
def test_masks_follow_the_seed_of_the_utterance_alone(
    lens, time_masks, freq_masks, bins, fraction, seed
):
    config = AugmentConfig(
        time_masks=time_masks,
        freq_masks=freq_masks,
        freq_mask_bins=bins,
        max_time_fraction=fraction,
    )
    features, feature_lens = batch(lens)
    found = augment(features, feature_lens, config, seed)
    for row, length in enumerate(lens):
        alone = features[row : row + 1, :length]
        want = augment(alone, feature_lens[row : row + 1], config, seed + row)
        assert torch.equal(found[row, :length], want[0])
        assert torch.equal(found[row, length:], features[row, length:])
