"""The whole model: normalisation, log-probabilities, files, refusals, and that it learns."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmu_asr.errors import CheckpointError, ModelError
from lmu_asr.models.ctc import CtcHead
from lmu_asr.models.describe import count_parameters, describe
from lmu_asr.models.head import Targets
from lmu_asr.models.losses.ctc import ctc_loss
from lmu_asr.models.losses.training import TrainingLoss
from lmu_asr.models.system import (
    SpeechModel,
    build_model,
    load_model,
    normalize_utterance,
    save_model,
)
from tests.models.small import SMALL, model_config


def test_log_probabilities_are_normalised_float32() -> None:
    model = build_model(model_config(SMALL), 5, 7).eval()
    y, lens = model(torch.randn(2, 21, 5), torch.tensor([21, 8]))
    assert y.shape == (2, 6, 7) and y.dtype == torch.float32 and lens.tolist() == [6, 2]
    torch.testing.assert_close(y.exp().sum(-1), torch.ones(2, 6))


def test_global_normalisation_stands_inside_the_model() -> None:
    torch.manual_seed(0)
    mean, std = torch.randn(5), torch.rand(5) + 0.1
    model = build_model(model_config(SMALL), 5, 7, (mean, std)).eval()
    plain = build_model(model_config(SMALL, normalize="none"), 5, 7).eval()
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
    model = build_model(model_config(SMALL, normalize="utterance"), 5, 7).eval()
    a, n = model(x, lens)
    torch.testing.assert_close(a[1, : n[1]], model(x[1:, :12] * 2 + 1)[0][0], atol=1e-4, rtol=1e-4)


def test_silent_features_normalise_to_finite_values() -> None:
    model = build_model(model_config(SMALL), 5, 7, (torch.zeros(5), torch.zeros(5))).eval()
    assert torch.isfinite(model(torch.zeros(1, 9, 5))[0]).all()
    assert torch.isfinite(normalize_utterance(torch.ones(1, 4, 5), None)).all()


def test_cmvn_of_another_width_is_refused() -> None:
    with pytest.raises(ModelError, match=r"mean of shape \(4,\): want 5"):
        build_model(model_config(SMALL), 5, 7, (torch.zeros(4), torch.ones(4)))
    with pytest.raises(ModelError, match="std"):
        build_model(model_config(SMALL), 5, 7, (torch.zeros(5), torch.full((5,), torch.nan)))


def test_saved_model_comes_back_bit_equal(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = build_model(model_config(SMALL), 5, 7, (torch.randn(5), torch.rand(5) + 1)).eval()
    save_model(model, tmp_path / "model.safetensors")
    other = load_model(tmp_path / "model.safetensors")
    x = torch.randn(2, 21, 5)
    assert torch.equal(model(x)[0], other(x)[0])
    assert other.config == model.config and not other.training


def test_another_models_weights_are_refused_by_name_and_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    wide = tmp_path / "wide.safetensors"
    save_model(build_model(model_config(SMALL), 5, 7), path)
    save_model(build_model(model_config(SMALL, ff_mult=3.0), 5, 7), wide)
    wide.replace(path)
    with pytest.raises(CheckpointError, match=r"ff\.w1\.weight has shape \(48, 8\).*\(32, 8\)"):
        load_model(path)
    save_model(build_model(model_config(SMALL, num_layers=1), 5, 7), wide)
    wide.replace(path)
    with pytest.raises(CheckpointError, match=r"no tensor encoder\.layers\.1"):
        load_model(path)
    save_model(build_model(model_config(SMALL, num_layers=3), 5, 7), wide)
    wide.replace(path)
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.2.* is not in the model"):
        load_model(path)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="missing"):
        load_model(path)
    save_model(build_model(model_config(SMALL), 5, 7), path)
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
    causal = model_config(SMALL, bidirectional=False, lookahead=1, normalize="none")
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
    about = describe(build_model(model_config(SMALL, encoder="transformer"), 5, 7))
    assert about.state_bytes is None
    assert "streaming        no" in str(about) and "unbounded" in str(about)


@pytest.mark.parametrize("encoder", ["lmu", "lmu_cell", "lmu_parallel", "lstm", "transformer"])
def test_ctc_loss_falls_on_a_toy_task(encoder: str) -> None:
    """Tokens are random vectors held for a few frames: 60 steps must read most of them."""
    torch.manual_seed(3)
    config = model_config(SMALL, encoder=encoder, dim=32, dropout=0.0, subsampling=2)
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
    model = build_model(model_config(SMALL, num_layers=3, dropout=0.0), 5, 4)
    x, lens = torch.randn(2, 20, 5), torch.tensor([20, 13])
    plain, plain_lens = model.train()(x, lens)
    model.head.taps, model.head.rule = (1, 2), TrainingLoss(ctc_loss, inter_ctc=0.3, taps=2)
    targets = Targets([[1, 2], [3]])
    losses, both, both_lens = model(x, lens, targets)
    assert losses.shape == (2,) and both_lens.tolist() == plain_lens.tolist()
    assert torch.equal(both[:2], plain) and torch.equal(model(x, lens)[0], plain)
    for n in (1, 2):  # what a model of the first n layers gives
        model.encoder.layers, layers = model.encoder.layers[:n], model.encoder.layers
        torch.testing.assert_close(both[2 * n : 2 * n + 2], model(x, lens)[0], rtol=0, atol=0)
        model.encoder.layers = layers
    losses, outputs, _ = model.eval()(x, lens, targets)
    assert torch.equal(outputs, plain)
    torch.testing.assert_close(losses, ctc_loss(plain, plain_lens, [[1, 2], [3]]))


def test_a_held_part_is_neither_trained_nor_saved() -> None:
    class Holding(CtcHead):
        def __init__(self, seed: int) -> None:
            super().__init__(8, 4)
            torch.manual_seed(seed)
            self.hold("other", nn.Linear(3, 3), "0f" * 32)

    def holding(seed: int) -> SpeechModel:
        model = build_model(model_config(SMALL), 5, 4)
        model.head = Holding(seed)
        return model

    model, other = holding(1), holding(2)
    assert not [name for name in model.state_dict() if "other" in name]
    assert not any(p.requires_grad for p in model.head.other.parameters())
    model.train()
    assert model.head.training and not model.head.other.training  # no dropout in what is frozen
    before = other.head.other.weight.clone()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.head.linear.weight, model.head.linear.weight)
    assert torch.equal(other.head.other.weight, before)
    assert model.head.references == {"other": "0f" * 32}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.data())
def test_greedy_in_chunks_is_greedy_of_the_whole(tokens: list[int], data: st.DataObject) -> None:
    head, outputs = CtcHead(4, 4), torch.eye(4)[tokens][None]  # (1, T', V)
    whole = [token for token, _ in itertools.groupby(tokens) if token]
    assert head.greedy(outputs, torch.tensor([len(tokens)])) == [whole]
    _, state = head.extend(outputs[:, :0], torch.tensor([0]), head.init_state(1))
    found, start = [], 0
    while start < len(tokens):
        size = data.draw(st.integers(1, len(tokens) - start))
        part = outputs[:, start : start + size]
        new, state = head.extend(part, torch.tensor([size]), state)
        found, start = found + new[0], start + size
    assert found == whole


def test_greedy_reads_no_frame_past_the_end() -> None:
    outputs = torch.eye(5)[torch.tensor([[1, 1, 0, 1, 2, 2], [3, 3, 0, 4, 4, 4]])]
    assert CtcHead(4, 5).greedy(outputs, torch.tensor([6, 3])) == [[1, 1, 2], [3]]
