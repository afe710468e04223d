"""A stream's output equals the offline output of the same causal model, however it is cut."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmu_asr.config import ModelConfig
from lmu_asr.errors import ModelError
from lmu_asr.models.describe import state_bytes
from lmu_asr.models.inference.quant import pack_for_streaming, quantize
from lmu_asr.models.system import SpeechModel, build_model
from tests.models.small import model_config

FEATURES = 6
CHUNKS = (1, 4, 16, 37, 10_000)  # 10,000: whole


def random_config(draw: random.Random, encoder: str) -> ModelConfig:
    groups = draw.choice([1, 2, 4])
    return model_config(
        encoder=encoder,
        bidirectional=False,
        dim=8 * draw.randint(1, 3),
        num_layers=draw.randint(1, 3),
        subsampling=draw.choice([2, 4, 8]),
        frontend=draw.choice(["linear", "conv2d"]),
        subsampling_channels=draw.randint(1, 9),
        memory_order=draw.randint(1, 12),
        thetas=[draw.uniform(1.0, 40.0) for _ in range(groups)],
        trainable_theta=draw.random() < 0.2,
        hidden=draw.choice([0, 5, 11]),
        ff_mult=draw.choice([0.0, 1.5]),
        conv_kernel=draw.choice([0, 0, 2, 5]),
        lookahead=draw.choice([0, 0, 1, 3]),
        normalize=draw.choice(["global", "none"]),
    )


def random_model(draw: random.Random, encoder: str) -> SpeechModel:
    cmvn = (torch.randn(FEATURES), torch.rand(FEATURES) + 0.5)
    return build_model(random_config(draw, encoder), FEATURES, 7, cmvn).eval()


def stream(model: SpeechModel, x: Tensor, chunk: int) -> Tensor:
    """Run x (N, T, F) through step() in chunks, then flush()."""
    state = model.init_state(x.shape[0])
    outputs = []
    for start in range(0, x.shape[1], chunk):
        y, state = model.step(x[:, start : start + chunk], state)
        outputs.append(y)
    y, _ = model.flush(state)
    return torch.cat([*outputs, y], dim=1)


@pytest.mark.parametrize(
    "encoder", ["lmu", "lmu packed", "lmu int8", "lmu_cell", "lmu_parallel", "lstm"]
)
def test_stream_equals_offline_in_1000_cases(encoder: str) -> None:
    """40 models an encoder, each at 5 chunk sizes."""
    encoder, _, weights = encoder.partition(" ")
    convert = {"packed": pack_for_streaming, "int8": quantize}.get(weights)
    draw = random.Random(encoder + weights)
    torch.manual_seed(1)
    with torch.inference_mode():
        for case in range(40):
            model = random_model(draw, encoder)
            model = model if convert is None else convert(model)
            x = 2 * torch.randn(draw.randint(1, 3), draw.randint(1, 60), FEATURES)
            offline, lens = model(x)
            assert int(lens[0]) == offline.shape[1] == -(-x.shape[1] // model.subsampling_factor)
            for chunk in CHUNKS:
                y = stream(model, x, chunk)
                assert y.shape == offline.shape, (case, chunk, model.config)
                error = (y - offline).abs().max().item()
                assert error < 1e-5, (case, chunk, error, model.config)


def test_stream_cut_at_random_equals_offline() -> None:
    draw = random.Random(5)
    torch.manual_seed(2)
    model = random_model(draw, "lmu")
    x = torch.randn(2, 83, FEATURES)
    state, outputs, start = model.init_state(2), [], 0
    while start < 83:
        size = draw.choice([0, 1, 2, 9])
        y, state = model.step(x[:, start : start + size], state)
        outputs.append(y)
        start += size
    outputs.append(model.flush(state)[0])
    torch.testing.assert_close(torch.cat(outputs, 1), model(x)[0], atol=1e-5, rtol=0)


def test_output_frame_is_ready_after_the_stated_latency_and_not_before() -> None:
    config = model_config(
        dim=8, num_layers=3, thetas=[4.0], bidirectional=False, lookahead=2, subsampling=4
    )
    model = build_model(config, FEATURES, 5).eval()
    latency = int(model.encoder.latency_frames)
    assert latency == 4 * (1 + 3 * 2)
    state = model.init_state(1)
    before, state = model.step(torch.randn(1, latency - 1, FEATURES), state)
    then, state = model.step(torch.randn(1, 1, FEATURES), state)
    assert (before.shape[1], then.shape[1]) == (0, 1)


def test_causal_output_ignores_frames_past_its_latency() -> None:
    torch.manual_seed(3)
    config = model_config(
        dim=8, num_layers=2, thetas=[4.0, 9.0], bidirectional=False, lookahead=1, conv_kernel=3
    )
    model = build_model(config, FEATURES, 5).eval()
    x = torch.randn(1, 64, FEATURES)
    other = x.clone()
    other[:, 40:] += 5.0
    same = (40 - int(model.encoder.latency_frames)) // 4 + 1
    a, b = model(x)[0], model(other)[0]
    torch.testing.assert_close(a[:, :same], b[:, :same], atol=1e-6, rtol=0)
    assert (a[:, same] - b[:, same]).abs().max() > 1e-4


def test_state_does_not_grow_with_the_stream() -> None:
    config = model_config(dim=8, num_layers=2, thetas=[4.0], bidirectional=False, lookahead=2)
    model = build_model(config, FEATURES, 5).eval()
    state = model.init_state(1)
    sizes = []
    for _ in range(40):
        _, state = model.step(torch.randn(1, 8, FEATURES), state)
        sizes.append(state_bytes(state))
    assert len(set(sizes[5:])) == 1


@pytest.mark.parametrize("make", [pack_for_streaming, quantize])
def test_packed_step_leaves_the_given_state_alone_and_survives_a_copy(
    make: Callable[[SpeechModel], SpeechModel],
) -> None:
    torch.manual_seed(7)
    config = model_config(
        dim=16, num_layers=2, thetas=[4.0, 9.0], bidirectional=False, conv_kernel=4
    )
    model = make(build_model(config, FEATURES, 5))
    x = torch.randn(2, 12, FEATURES)
    with torch.inference_mode():
        state = model.init_state(2)
        first, later = model.step(x, state)
        second, _ = model.step(x, later)
        assert torch.equal(model.step(x, state)[0], first)
        assert torch.equal(model.step(x, later)[0], second)
        twin = copy.deepcopy(model)
        for p in model.state_dict().values():
            p.zero_()
        assert torch.equal(twin.step(x, state)[0], first)


def test_flush_hands_out_a_fresh_state() -> None:
    torch.manual_seed(4)
    model = random_model(random.Random(8), "lmu")
    x = torch.randn(1, 21, FEATURES)
    _, state = model.step(x, model.init_state(1))
    _, fresh = model.flush(state)
    first, _ = model.step(x, fresh)
    again, _ = model.step(x, model.init_state(1))
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"encoder": "transformer", "dim": 8}, "attention needs"),
        ({"bidirectional": True}, "bidirectional=false"),
        ({"bidirectional": False, "normalize": "utterance"}, "normalize=global"),
    ],
)
def test_what_cannot_stream_says_so(change: dict[str, object], hint: str) -> None:
    options = {"dim": 8, "num_layers": 1, "bidirectional": False, **change}
    model = build_model(model_config(**options), FEATURES, 5)  # type: ignore[arg-type]
    assert not model.streaming
    with pytest.raises(ModelError, match=hint):
        model.init_state(1)
