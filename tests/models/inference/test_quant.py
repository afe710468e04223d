"""int8 weights: the rounding is the only error, streams and files work, misuse is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lmu_asr.errors import ModelError
from lmu_asr.models.describe import count_parameters
from lmu_asr.models.inference.quant import (
    Int8Linear,
    PackedLinear,
    is_quantized,
    pack,
    pack_for_streaming,
    quantize,
    unpack,
)
from lmu_asr.models.memory.kernels import elementwise
from lmu_asr.models.system import build_model, load_model, save_model
from tests.models.small import SMALL, model_config


def test_weights_are_rounded_per_output_to_half_a_step() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(37, 70)
    with torch.no_grad():
        linear.weight[3] = 0.0
        linear.weight[4] *= 1e4
    own = Int8Linear(linear).dequantized()
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    assert ((own - linear.weight).abs() <= step * 0.5001).all()
    torch.testing.assert_close(own.abs().amax(1), linear.weight.abs().amax(1))


def test_packing_puts_64_outputs_of_one_input_together() -> None:
    weight = torch.randint(-127, 128, (130, 5), dtype=torch.int8)
    packed = pack(weight)
    assert packed.shape == (3, 5, 64)
    for n in (0, 63, 64, 129):
        assert torch.equal(packed[n // 64, :, n % 64], weight[n])
    assert (packed[2, :, 2:] == 0).all()
    assert torch.equal(unpack(packed, 130), weight)


@pytest.mark.parametrize("path", ["compiled", "torch"])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 6, 7, 64])
@pytest.mark.parametrize("size", [(1, 1), (5, 63), (37, 130), (320, 64)])
def test_product_equals_that_of_the_rounded_weight(
    path: str, rows: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "torch":
        monkeypatch.setattr(elementwise, "library", lambda: None)
    elif elementwise.library() is None:
        pytest.skip("no C++ compiler here")
    torch.manual_seed(1)
    for bias in (True, False):
        linear = nn.Linear(*size, bias=bias)
        own, packed = Int8Linear(linear), PackedLinear(linear)
        x = torch.randn(rows, size[0])
        for layer, weight in ((own, own.dequantized()), (packed, linear.weight)):
            exact = x.double() @ weight.double().T
            exact = exact if linear.bias is None else exact + linear.bias
            y = layer(x)
            assert y.shape == exact.shape
            torch.testing.assert_close(y.double(), exact, atol=1e-5, rtol=1e-5)


def test_rows_of_a_batch_give_what_they_give_alone() -> None:
    torch.manual_seed(2)
    own = Int8Linear(nn.Linear(40, 70))
    x = torch.randn(2, 7, 40)
    torch.testing.assert_close(own(x)[1, 3], own(x[1, 3]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("encoder", ["lmu", "lmu_cell", "lmu_parallel", "lstm"])
def test_quantized_model_streams_and_stays_near(encoder: str) -> None:
    torch.manual_seed(3)
    model = build_model(
        model_config(encoder=encoder, dim=32, num_layers=2, bidirectional=False), 6, 9
    ).eval()
    small = quantize(model)
    assert is_quantized(small) and not is_quantized(model)
    assert count_parameters(small) == count_parameters(model)
    x = torch.randn(2, 45, 6)
    offline, _ = small(x)
    error = (offline.exp() - model(x)[0].exp()).abs().max()
    assert 0 < error < 0.02
    state, outputs = small.init_state(2), []
    for chunk in x.split(7, dim=1):
        y, state = small.step(chunk, state)
        outputs.append(y)
    outputs.append(small.flush(state)[0])
    torch.testing.assert_close(torch.cat(outputs, 1), offline, atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", ["lmu", "transformer"])
@pytest.mark.parametrize("inference", [True, False])
def test_packed_model_equals_the_plain_one(encoder: str, inference: bool) -> None:
    torch.manual_seed(4)
    config = model_config(encoder=encoder, dim=32, num_layers=2, num_heads=2, thetas=[4.0])
    model = build_model(config, 6, 9).eval()
    x, lens = torch.randn(2, 45, 6), torch.tensor([45, 20])
    with torch.inference_mode(inference):
        expected = model(x, lens)[0]
        torch.testing.assert_close(pack_for_streaming(model)(x, lens)[0], expected)
        error = (quantize(model)(x, lens)[0].exp() - expected.exp()).abs().max()
        assert 0 < error < 0.02


def test_quantized_model_is_saved_small_and_comes_back_bit_equal(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = model_config(dim=64, num_layers=2, bidirectional=False)
    model = build_model(config, 6, 9)
    save_model(model, tmp_path / "float.safetensors")
    save_model(quantize(model), tmp_path / "int8.safetensors")
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("float", "int8")]
    assert sizes[1] < 0.4 * sizes[0]
    x = torch.randn(1, 30, 6)
    other = load_model(tmp_path / "int8.safetensors")
    assert torch.equal(other(x)[0], quantize(model)(x)[0])


def test_other_types_are_refused() -> None:
    with pytest.raises(ModelError, match=r"float32 on the cpu.*float64"):
        Int8Linear(nn.Linear(3, 4))(torch.zeros(1, 3, dtype=torch.float64))
    with pytest.raises(ModelError, match="packed weights"):
        PackedLinear(nn.Linear(3, 4))(torch.zeros(1, 3, dtype=torch.bfloat16))
    assert not is_quantized(build_model(model_config(SMALL), 5, 7))
