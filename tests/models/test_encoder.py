"""Every encoder behind the one interface: padding, shapes, options, blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.errors import ModelError
from lmu_asr.models.encoder import build_encoder
from lmu_asr.models.layers import Residual, RMSNorm, SwiGLU, reverse_frames
from lmu_asr.models.memory.kernels.compiled import available
from tests.models.small import SMALL, model_config

ENCODERS = ["lmu", "lmu_cell", "lmu_parallel", "lstm", "transformer"]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("normal", [{}, {"conv_kernel": 5}])
def test_padding_never_changes_a_valid_output(
    encoder: str, bidirectional: bool, normal: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    config = model_config(SMALL, encoder=encoder, bidirectional=bidirectional, **normal)
    model = build_encoder(config, 5).eval()
    lens = torch.tensor([41, 17, 1, 30, 0])
    x = torch.full((5, 41, 5), 1e3)
    for i, n in enumerate(lens):
        x[i, :n] = torch.randn(n, 5)
    y, y_lens = model(x, lens)
    assert y_lens.tolist() == [11, 5, 1, 8, 0] == model.output_lens(lens).tolist()
    for i, n in enumerate(lens.tolist()[:-1]):
        alone, _ = model(x[i : i + 1, :n])
        torch.testing.assert_close(y[i, : y_lens[i]], alone[0], atol=1e-5, rtol=1e-4)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_gets_no_gradient(encoder: str) -> None:
    torch.manual_seed(1)
    model = build_encoder(model_config(SMALL, encoder=encoder), 5).eval()
    lens = torch.tensor([20, 9])
    x = torch.randn(2, 20, 5, requires_grad=True)
    y, y_lens = model(x, lens)
    (y[0].sum() + y[1, : y_lens[1]].square().sum()).backward()
    assert x.grad is not None
    assert (x.grad[1, 9:] == 0).all()
    assert (x.grad[1, :9] != 0).any(-1).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradient_checkpointing_changes_no_gradient(encoder: str) -> None:
    torch.manual_seed(2)
    config = model_config(SMALL, encoder=encoder, dropout=0.2, stochastic_depth=0.3)
    x, lens = torch.randn(2, 24, 5), torch.tensor([24, 13])
    models = [build_encoder(replace(config, grad_checkpoint=flag), 5) for flag in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    gradients = []
    for model in models:
        torch.manual_seed(3)
        y, _ = model.train()(x, lens)
        gradients.append(torch.autograd.grad(y.square().sum(), list(model.parameters())))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("encoder", ["lmu", "lmu_cell", "lmu_parallel", "lstm"])
def test_bidirectional_encoder_sees_the_future_and_a_causal_one_does_not(encoder: str) -> None:
    torch.manual_seed(4)
    x = torch.randn(1, 48, 5)
    later = x.clone()
    later[:, 32:] += 1.0
    for bidirectional in (False, True):
        config = model_config(SMALL, encoder=encoder, bidirectional=bidirectional)
        model = build_encoder(config, 5).eval()
        change = (model(x)[0] - model(later)[0]).abs().amax(-1)[0]
        assert (change[:8].max() > 1e-4) == bidirectional


def test_lookahead_sees_exactly_that_far() -> None:
    torch.manual_seed(5)
    model = build_encoder(model_config(SMALL, bidirectional=False, lookahead=2), 5).eval()
    x = torch.randn(1, 64, 5)
    later = x.clone()
    later[:, 40:] += 1.0
    change = (model(x)[0] - model(later)[0]).abs().amax(-1)[0]
    first = int((change > 1e-6).nonzero()[0])
    assert first == 10 - 2 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 9}, "divide into 2 groups"),
        ({"encoder": "transformer", "dim": 9}, "num_heads"),
        ({"lookahead": 1}, "bidirectional=false"),
        ({"conv_kernel": 4}, "odd"),
    ],
)
def test_options_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_encoder(model_config(SMALL, **change), 5)


def test_features_of_another_width_are_refused() -> None:
    model = build_encoder(model_config(SMALL), 5)
    with pytest.raises(ModelError, match=r"\(1, 9, 4\).*num_mel_bins"):
        model(torch.zeros(1, 9, 4))
    with pytest.raises(ModelError, match="lengths"):
        model(torch.zeros(2, 9, 5), torch.tensor([9]))


def test_double_precision_runs_throughout() -> None:
    for encoder in ENCODERS:
        model = build_encoder(model_config(SMALL, encoder=encoder), 5).double()
        y, _ = model(torch.randn(1, 9, 5, dtype=torch.float64), torch.tensor([9]))
        assert y.dtype == torch.float64


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_reverse_frames_turns_valid_frames_and_keeps_padding(lens: list[int]) -> None:
    x = torch.randn(len(lens), 9, 2)
    y = reverse_frames(x, torch.tensor(lens))
    for row, turned, n in zip(x, y, lens, strict=True):
        assert torch.equal(turned, torch.cat([row[:n].flip(0), row[n:]]))


def test_rms_norm_follows_its_definition_with_gradients() -> None:
    torch.manual_seed(6)
    norm = RMSNorm(7).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    expected = x / (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    assert torch.autograd.gradcheck(norm, (x,))
    assert (norm(torch.zeros(1, 7, dtype=torch.float64)) == 0).all()


def test_swiglu_follows_its_definition_with_gradients() -> None:
    torch.manual_seed(7)
    ff = SwiGLU(4, 6).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    a, b = (x @ ff.w1.weight.T).split(6, dim=-1)
    torch.testing.assert_close(ff(x), (a * torch.sigmoid(a) * b) @ ff.w2.weight.T)
    assert torch.autograd.gradcheck(ff, (x,))


def test_residual_keeps_the_mean_and_drops_whole_utterances() -> None:
    torch.manual_seed(8)
    residual = Residual(dropout=0.25, drop_path=0.5)
    x, branch = torch.full((4000, 3, 5), 2.0), torch.ones(4000, 3, 5)
    y = residual(x, branch) - x
    dropped = (y == 0).all(-1).all(-1)
    assert abs(float(dropped.float().mean()) - 0.5) < 0.04
    assert abs(float(y.mean()) - 1.0) < 0.06
    assert abs(float((y[~dropped] == 0).float().mean()) - 0.25) < 0.02
    assert torch.equal(residual.eval()(x, branch), x + branch)


@pytest.mark.parametrize("form", ["fft", "chunked", "compiled", "auto"])
@pytest.mark.parametrize("dim", [36, 132, 144])
def test_every_form_of_the_memory_gives_the_same_encoder(form: str, dim: int) -> None:
    """Among the widths: groups of 33 and 36 channels, which straddle the compiled form's vectors."""
    if form == "compiled" and not available():
        pytest.skip("no C++ compiler here")
    wide = {"dim": dim, "num_layers": 1, "thetas": [2.0, 5.0, 9.0, 30.0]}
    forms = [model_config(SMALL, wide, memory_form=f) for f in ("sequential", form)]
    models = [build_encoder(config, 5).eval() for config in forms]
    models[1].load_state_dict(models[0].state_dict())
    torch.manual_seed(9)
    x, lens = torch.randn(2, 83, 5), torch.tensor([83, 50])
    results = []
    for model in models:
        y, y_lens = model(x, lens)
        valid = [row[:n] for row, n in zip(y, y_lens, strict=True)]
        loss = sum(part.square().sum() for part in valid)
        results.append((valid, torch.autograd.grad(loss, list(model.parameters()))))  # type: ignore[arg-type]
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-3)
