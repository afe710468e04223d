"""The controls are torch's own modules, used as torch means them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lmu_asr.models.controls import LstmMixer, TransformerLayer, sinusoidal_positions
from lmu_asr.models.mixers import Bidirectional


def test_bidirectional_lstm_equals_torch_on_packed_utterances() -> None:
    torch.manual_seed(0)
    own = Bidirectional(lambda: LstmMixer(3, 4), 3, 1.0).eval()
    torch_own = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, p in torch_own.named_parameters():
            mixer = own.back if name.endswith("_reverse") else own.ahead
            p.copy_(mixer.lstm.get_parameter(name.removesuffix("_reverse")))  # type: ignore[union-attr]
        for mixer in (own.ahead, own.back):
            mixer.output.weight.copy_(torch.eye(3, 4))  # type: ignore[union-attr]
        own.join.weight.copy_(torch.eye(3, 6))
    x, lens = torch.randn(3, 9, 3), torch.tensor([9, 5, 2])
    packed = nn.utils.rnn.pack_padded_sequence(x, lens, batch_first=True)
    expected, _ = nn.utils.rnn.pad_packed_sequence(torch_own(packed)[0], batch_first=True)
    joined = []
    for mixer, half in ((own.ahead, expected[..., :4]), (own.back, expected[..., 4:])):
        joined.append(half @ mixer.output.weight.T)  # type: ignore[union-attr,operator]
    expected_y = torch.cat(joined, -1) @ own.join.weight.T
    y = own(x, lens)
    for i, n in enumerate(lens):
        torch.testing.assert_close(y[i, :n], expected_y[i, :n])


def test_lstm_starts_with_open_forget_gates() -> None:
    lstm = LstmMixer(3, 4).lstm
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).reshape(4, 4)
    assert bias.tolist() == [[0.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4]


@pytest.mark.parametrize("causal", [True, False])
def test_transformer_layer_attends_where_it_may(causal: bool) -> None:
    torch.manual_seed(1)
    layer = TransformerLayer(4, 2, 6, 0.0, causal).eval()
    x, lens = torch.randn(2, 7, 4), torch.tensor([7, 4])
    y = layer(x, lens)
    for i, n in enumerate(lens.tolist()):
        own = layer.layer
        h = own.norm1(x[i, :n])
        q, k, v = (h @ own.self_attn.in_proj_weight.T + own.self_attn.in_proj_bias).chunk(3, -1)
        heads = []
        for part in (slice(0, 2), slice(2, 4)):
            score = q[:, part] @ k[:, part].T / math.sqrt(2)
            if causal:
                score = score.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
            heads.append(score.softmax(-1) @ v[:, part])
        z = x[i, :n] + own.self_attn.out_proj(torch.cat(heads, -1))
        expected = z + own.linear2(nn.functional.gelu(own.linear1(own.norm2(z))))
        torch.testing.assert_close(y[i, :n], expected, atol=1e-6, rtol=1e-5)


def test_positions_are_those_of_the_paper() -> None:
    table = sinusoidal_positions(30, 6, torch.device("cpu"))
    assert table.shape == (30, 6)
    for t in (0, 1, 29):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert table[t, 2 * i] == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[t, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-5)
    assert sinusoidal_positions(3, 5, torch.device("cpu")).shape == (3, 5)
