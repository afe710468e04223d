"""The memory plan: measured, exact in what it predicts, never changing what is learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lmu_asr.config import Config
from lmu_asr.errors import TrainingError
from lmu_asr.training.autoconf import Plan, Sizing, make_plan
from lmu_asr.training.distributed import current_world
from lmu_asr.training.loss import TrainingLoss, ctc_loss
from lmu_asr.training.profile import Speech, TensorMemory, can_measure, profile_speech
from lmu_asr.training.step import GradientStep
from tests.training.test_step import SmallMemory
from tests.training.toy import F, ToyModel, toy_config

WORLD = current_world(prefer_gpu=False)
SPEECH = Speech(9, {"p50": 20, "p90": 40, "p99": 40, "max": 50}, 9, 0.2)
MIB = 2**20

pytestmark = pytest.mark.skipif(
    not can_measure(torch.device("cpu")), reason="this torch does not tell when a storage ends"
)


class Lengths:
    def lengths(self) -> list[tuple[int, int]]:
        return [(20, 3), (50, 9)]


def config(*options: str) -> Config:
    return toy_config(f"features.num_mel_bins={F}", "train.max_duration=10", *options)


def step_of(model: nn.Module | None = None, cr_ctc: float = 0.0) -> GradientStep:
    torch.manual_seed(0)
    loss = TrainingLoss(ctc_loss, cr_ctc)
    return GradientStep(model or ToyModel(0.1, 200), loss, WORLD, None, lambda: None)


def test_bytes_of_live_tensors_and_their_peak() -> None:
    with TensorMemory() as memory:
        a = torch.zeros(1000)
        b = a + 1
        view = b[10:]
        del a, b
        assert memory.bytes == 4000  # the view keeps b
        del view
        assert memory.bytes == 0
        c = torch.zeros(100)
        c += 1
        assert memory.bytes == 400
    assert memory.peak == 8000
    assert c.sum() == 100


def test_saved_activations_count_until_backward() -> None:
    weight = torch.zeros(100, 100, requires_grad=True)
    with TensorMemory() as memory:
        y = torch.tanh(weight)  # saved: 40 kB
        z = y.sum()
        del y
        assert memory.bytes == 40_000 + 4
        z.backward()
        assert memory.bytes == 40_000 + 4  # the gradient stays, the activation has gone


def test_speech_is_summarised() -> None:
    speech = profile_speech([(100, 10), (300, 20), (200, 50)])
    assert speech.frames == {"p50": 200, "p90": 300, "p99": 300, "max": 300}
    assert (speech.utterances, speech.max_tokens, speech.tokens_per_frame) == (3, 50, 0.25)


@pytest.mark.parametrize("cr_ctc", [0.0, 0.2])
def test_predicted_peak_is_the_measured_one(cr_ctc: float) -> None:
    free = 6 * MIB
    plan = make_plan(config(), step_of(None, cr_ctc), SPEECH, WORLD, free)
    assert plan.measured_peak_mib is not None
    assert plan.predicted_peak_mib == pytest.approx(plan.measured_peak_mib, rel=0.1)
    assert plan.measured_peak_mib * MIB <= 0.9 * free
    assert 0 < plan.frame_limit < plan.largest_batch_frames == 1000 * (2 if cr_ctc else 1)


def test_plenty_of_memory_splits_nothing() -> None:
    plan = make_plan(config(), step_of(), SPEECH, WORLD, 10**9)
    assert plan.frame_limit == 0 and plan.measured_peak_mib is None
    assert "fits whole" in plan.summary()


def test_a_step_that_fails_is_halved() -> None:
    model = SmallMemory(ToyModel(0.0, 200), 400, "backward")  # less than it pretends to be
    plan = make_plan(config(), step_of(model), SPEECH, WORLD, 14 * MIB)
    assert plan.frame_limit in (250, 350, 400)
    assert plan.probes[-1]["padded_frames"] == plan.frame_limit


def test_one_utterance_too_large_is_said() -> None:
    with pytest.raises(TrainingError, match="one utterance of 50 frames needs"):
        make_plan(config(), step_of(), SPEECH, WORLD, 200_000)


def test_measuring_changes_nothing() -> None:
    class Counting(ToyModel):
        def __init__(self) -> None:
            super().__init__(0.0)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
            self.get_buffer("calls").add_(1)
            return super().forward(x, lens)

    step = step_of(Counting())
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    make_plan(config(), step, SPEECH, WORLD, 10**9)
    assert all(torch.equal(before[k], v) for k, v in step.model.state_dict().items())
    assert step.flat.buffer.abs().max() == 0


def test_a_plan_is_written_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lmu_asr.training.autoconf.free_bytes", lambda *_: 4 * MIB)
    limit = Sizing(config(), Lengths(), tmp_path, WORLD)(step_of())
    assert limit and limit < 1000
    written = (tmp_path / "autoconf.yaml").read_bytes()

    def refuse(*_: object) -> Plan:
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr("lmu_asr.training.autoconf.make_plan", refuse)
        assert Sizing(config(), Lengths(), tmp_path, WORLD)(step_of()) == limit
    caplog.set_level("INFO")
    other = config("model.dim=96")
    Sizing(other, Lengths(), tmp_path, WORLD)(step_of())
    assert "another model: measuring again" in caplog.text
    assert (tmp_path / "autoconf.yaml").read_bytes() != written


def test_options_override(tmp_path: Path) -> None:
    set_by_hand = config("train.frame_limit=123")
    assert Sizing(set_by_hand, Lengths(), tmp_path, WORLD)(step_of()) == 123
    off = config("train.autoconf=false")
    assert Sizing(off, Lengths(), tmp_path, WORLD)(step_of()) is None
    assert not list(tmp_path.iterdir())
