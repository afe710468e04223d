"""Subsampling: lengths, padding, causality, and the convolution it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmu_asr.models.subsampling import Conv2dStage, ConvStage, Subsampling


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


def test_conv2d_stage_sees_its_pair_and_the_pair_before() -> None:
    torch.manual_seed(0)
    stage = Conv2dStage(5, 2, 3).double()
    torch.nn.init.normal_(stage.conv.bias)
    x = torch.randn(2, 10, 10, dtype=torch.float64)
    y, pair = stage(x)
    image = x.reshape(2, 10, 5, 2).permute(0, 3, 1, 2)  # (N, C, T, B)
    padded = F.pad(image, (1, 1, 2, 0))
    windows = padded.unfold(2, 4, 2).unfold(3, 3, 2)  # (N, C, T, B, 4, 3)
    expected = torch.einsum("nctbij,ocij->ntbo", windows, stage.conv.weight) + stage.conv.bias
    torch.testing.assert_close(y, expected.reshape(2, 5, 9))
    torch.testing.assert_close(pair, x[:, -2:].reshape(2, 20))


def test_conv2d_halves_an_odd_number_of_bins() -> None:
    front = Subsampling(13, 4, 6, 8, "conv2d")
    assert [(s.inputs, s.outputs) for s in front.stages] == [(13, 28), (28, 16), (16, 8)]
    assert front(torch.randn(2, 20, 13), torch.tensor([20, 9])).shape == (2, 3, 6)


@pytest.mark.parametrize("frontend", ["linear", "conv2d"])
@pytest.mark.parametrize(("factor", "field"), [(2, 4), (4, 10), (8, 22)])
def test_lengths_and_receptive_field(factor: int, field: int, frontend: str) -> None:
    torch.manual_seed(0)
    front = Subsampling(4, 6, 5, factor, frontend)
    assert front.receptive_field == field
    for T in range(1, 20):
        lens = torch.tensor([T])
        assert front(torch.randn(1, T, 4), lens).shape == (1, -(-T // factor), 5)
        assert front.output_lens(lens).tolist() == [-(-T // factor)]
    x = torch.randn(1, 64, 4, requires_grad=True)
    front(x, None)[0, 5].sum().backward()
    touched = x.grad.abs().sum(-1)[0].nonzero().flatten()  # type: ignore[union-attr]
    assert touched.tolist() == list(range(6 * factor - field, 6 * factor))


@pytest.mark.parametrize("frontend", ["linear", "conv2d"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_padding_never_changes_a_valid_frame(factor: int, frontend: str) -> None:
    torch.manual_seed(factor)
    front = Subsampling(4, 6, 5, factor, frontend)
    for name, parameter in front.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    x = torch.full((1, 30, 4), 9.0)
    for T in range(1, 30):
        x[0, :T] = torch.randn(T, 4)
        alone = front(x[:, :T], torch.tensor([T]))
        padded = front(x, torch.tensor([T]))[:, : alone.shape[1]]
        torch.testing.assert_close(padded, alone)
