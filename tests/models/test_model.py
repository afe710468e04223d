"""The whole model: normalisation, log-probabilities, files, refusals, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lmu_asr.config import ModelConfig
from lmu_asr.errors import CheckpointError, ModelError
from lmu_asr.models.describe import count_parameters, describe
from lmu_asr.models.model import build_model, load_model, normalize_utterance, save_model

SMALL = ModelConfig(dim=8, num_layers=2, thetas=[3.0, 9.0], memory_order=4, num_heads=2)


def test_log_probabilities_are_normalised_float32() -> None:
    model = build_model(SMALL, 5, 7).eval()
    y, lens = model(torch.randn(2, 21, 5), torch.tensor([21, 8]))
    assert y.shape == (2, 6, 7) and y.dtype == torch.float32 and lens.tolist() == [6, 2]
    torch.testing.assert_close(y.exp().sum(-1), torch.ones(2, 6))


def test_global_normalisation_stands_inside_the_model() -> None:
    torch.manual_seed(0)
    mean, std = torch.randn(5), torch.rand(5) + 0.1
    model = build_model(SMALL, 5, 7, (mean, std)).eval()
    plain = build_model(replace(SMALL, normalize="none"), 5, 7).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 21, 5)
    torch.testing.assert_close(model(x)[0], plain((x - mean) / std)[0])


def test_utterance_normalisation_ignores_padding_and_scale() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 30, 5) * 3 + 4
    lens = torch.tensor([30, 12])
    y = normalize_utterance(x, lens)
    valid = y[1, :12]
    torch.testing.assert_close(valid.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(valid.var(0, unbiased=False), torch.ones(5), atol=1e-4, rtol=0)
    x[1, 12:] = -99.0
    torch.testing.assert_close(normalize_utterance(x, lens)[1, :12], valid)
    model = build_model(replace(SMALL, normalize="utterance"), 5, 7).eval()
    a, n = model(x, lens)
    torch.testing.assert_close(a[1, : n[1]], model(x[1:, :12] * 2 + 1)[0][0], atol=1e-4, rtol=1e-4)


def test_silent_features_normalise_to_finite_values() -> None:
    model = build_model(SMALL, 5, 7, (torch.zeros(5), torch.zeros(5))).eval()
    assert torch.isfinite(model(torch.zeros(1, 9, 5))[0]).all()
    assert torch.isfinite(normalize_utterance(torch.ones(1, 4, 5), None)).all()


def test_cmvn_of_another_width_is_refused() -> None:
    with pytest.raises(ModelError, match=r"mean of shape \(4,\): want 5"):
        build_model(SMALL, 5, 7, (torch.zeros(4), torch.ones(4)))
    with pytest.raises(ModelError, match="std"):
        build_model(SMALL, 5, 7, (torch.zeros(5), torch.full((5,), torch.nan)))


def test_saved_model_comes_back_bit_equal(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = build_model(SMALL, 5, 7, (torch.randn(5), torch.rand(5) + 1)).eval()
    save_model(model, tmp_path / "model.safetensors")
    other = load_model(tmp_path / "model.safetensors")
    x = torch.randn(2, 21, 5)
    assert torch.equal(model(x)[0], other(x)[0])
    assert other.config == model.config and not other.training


def test_another_models_weights_are_refused_by_name_and_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    wide = tmp_path / "wide.safetensors"
    save_model(build_model(SMALL, 5, 7), path)
    save_model(build_model(replace(SMALL, ff_mult=3.0), 5, 7), wide)
    wide.replace(path)
    with pytest.raises(CheckpointError, match=r"ff\.w1\.weight has shape \(48, 8\).*\(32, 8\)"):
        load_model(path)
    save_model(build_model(replace(SMALL, num_layers=1), 5, 7), wide)
    wide.replace(path)
    with pytest.raises(CheckpointError, match=r"no tensor encoder\.layers\.1"):
        load_model(path)
    save_model(build_model(replace(SMALL, num_layers=3), 5, 7), wide)
    wide.replace(path)
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.2.* is not in the model"):
        load_model(path)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="missing"):
        load_model(path)
    save_model(build_model(SMALL, 5, 7), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="safetensors"):
        load_model(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such weights"):
        load_model(path)
    (tmp_path / "model.safetensors.yaml").write_text("model: {}\n")
    with pytest.raises(CheckpointError, match="input_dim"):
        load_model(path)


def test_description_follows_from_the_configuration() -> None:
    causal = replace(SMALL, bidirectional=False, lookahead=1, normalize="none")
    model = build_model(causal, 5, 7)
    about = describe(model)
    assert about.parameters == count_parameters(model)
    assert about.latency_ms == (4 * (1 + 2)) * 10 + 15
    assert about.receptive_field_ms == (10 + 2 * (9 + 1) * 4) * 10 + 15
    memory = 2 * 8 * 4  # layers, channels, order
    waiting = 2 * 1 * (8 + 8)  # layers, look-ahead, residual and gate
    front = 64 + 8 + 5 + 64  # what pairs send on, and one frame left over before each stage
    assert about.state_bytes == 4 * (memory + waiting + front)
    assert "latency          135 ms" in str(about)


def test_description_of_an_offline_model() -> None:
    about = describe(build_model(replace(SMALL, encoder="transformer"), 5, 7))
    assert about.state_bytes is None
    assert "streaming        no" in str(about) and "unbounded" in str(about)


@pytest.mark.parametrize("encoder", ["lmu", "lmu_cell", "lmu_parallel", "lstm", "transformer"])
def test_ctc_loss_falls_on_a_toy_task(encoder: str) -> None:
    """Tokens are random vectors held for a few frames: 60 steps must read most of them."""
    torch.manual_seed(3)
    config = replace(SMALL, encoder=encoder, dim=32, dropout=0.0, subsampling=2)
    model = build_model(config, 8, 6)
    signs = torch.randn(6, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    losses = []
    for _ in range(60):
        tokens = torch.randint(1, 6, (8, 5))
        x = signs[tokens].repeat_interleave(6, dim=1) + 0.1 * torch.randn(8, 30, 8)
        y, lens = model(x)
        loss = F.ctc_loss(y.transpose(0, 1), tokens, lens, torch.full((8,), 5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.3 * losses[0]


def test_inner_outputs_come_with_training_alone() -> None:
    torch.manual_seed(0)
    model = build_model(replace(SMALL, num_layers=3, dropout=0.0), 5, 4)
    x, lens = torch.randn(2, 20, 5), torch.tensor([20, 13])
    plain, plain_lens = model.train()(x, lens)
    model.taps = (1, 2)
    both, both_lens = model(x, lens)
    assert both_lens.tolist() == plain_lens.tolist() * 3
    assert torch.equal(both[:2], plain)
    for n in (1, 2):  # what a model of the first n layers gives
        model.encoder.layers, layers = model.encoder.layers[:n], model.encoder.layers
        model.taps = ()
        torch.testing.assert_close(both[2 * n : 2 * n + 2], model(x, lens)[0], rtol=0, atol=0)
        model.encoder.layers, model.taps = layers, (1, 2)
    assert torch.equal(model.eval()(x, lens)[0], plain)
