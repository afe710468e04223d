"""Subsampling: lengths, padding, causality, and the convolution it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmu_asr.models.subsampling import ConvStage, Subsampling


def test_stage_equals_conv1d_of_width_4_and_stride_2() -> None:
    torch.manual_seed(0)
    stage = ConvStage(3, 5).double()
    torch.nn.init.normal_(stage.bias)
    x = torch.randn(2, 10, 3, dtype=torch.float64)
    y, _ = stage(x)
    own, ahead = stage.product.weight.reshape(2, 5, 2, 3).unbind(0)  # (C, pair, F)
    kernel = torch.cat([ahead, own], dim=1).transpose(1, 2)  # (C, F, 4), oldest frame first
    padded = F.pad(x.transpose(1, 2), (2, 0))
    expected = F.conv1d(padded, kernel, stage.bias, stride=2).transpose(1, 2)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(("factor", "field"), [(2, 4), (4, 10), (8, 22)])
def test_lengths_and_receptive_field(factor: int, field: int) -> None:
    torch.manual_seed(0)
    front = Subsampling(4, 6, 5, factor)
    assert front.receptive_field == field
    for T in range(1, 20):
        lens = torch.tensor([T])
        assert front(torch.randn(1, T, 4), lens).shape == (1, -(-T // factor), 5)
        assert front.output_lens(lens).tolist() == [-(-T // factor)]
    x = torch.randn(1, 64, 4, requires_grad=True)
    front(x, None)[0, 5].sum().backward()
    touched = x.grad.abs().sum(-1)[0].nonzero().flatten()  # type: ignore[union-attr]
    assert touched.tolist() == list(range(6 * factor - field, 6 * factor))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_padding_never_changes_a_valid_frame(factor: int) -> None:
    torch.manual_seed(factor)
    front = Subsampling(4, 6, 5, factor)
    for stage in front.stages:
        torch.nn.init.normal_(stage.bias)  # type: ignore[arg-type]
    x = torch.full((1, 30, 4), 9.0)
    for T in range(1, 30):
        x[0, :T] = torch.randn(T, 4)
        alone = front(x[:, :T], torch.tensor([T]))
        padded = front(x, torch.tensor([T]))[:, : alone.shape[1]]
        torch.testing.assert_close(padded, alone)
