"""Plans: exact in what they predict, within a fake device's memory, never changing what is learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmu_asr.config import Config
from lmu_asr.data.batches.lengths import Lengths
from lmu_asr.errors import TrainingError
from lmu_asr.models.ctc import CtcHead
from lmu_asr.models.head import Targets
from lmu_asr.training.loop.step import GradientStep
from lmu_asr.training.parallel.processes import World, current_world
from lmu_asr.training.sizing import sizing as sizing_module
from lmu_asr.training.sizing.autoconf import (
    SHARE,
    make_plan,
    plan_buckets,
    plan_loading,
    share_of_batch,
)
from lmu_asr.training.sizing.plan import BucketPlan, Plan
from lmu_asr.training.sizing.probe import Prober
from lmu_asr.training.sizing.profile import MIB, Bucket, Speech, can_measure, profile_speech
from lmu_asr.training.sizing.sizing import Sizing, common_plan
from tests.training.loop.test_step import SmallMemory, train_batch
from tests.training.sizing.test_probe import step_of
from tests.training.toy import F, ToyModel, answer, toy_config

WORLD = current_world(prefer_gpu=False)
LENGTHS = Lengths(np.array([20, 20, 30, 50]), np.arange(4), np.array([3, 4, 5, 9]))
SPEECH = profile_speech(LENGTHS, 2)

pytestmark = pytest.mark.skipif(
    not can_measure(torch.device("cpu")), reason="this torch does not tell when a storage ends"
)


@pytest.fixture(autouse=True)
def tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is what tensors take, and time to measure does not end: both are chance in a test."""
    monkeypatch.setattr("lmu_asr.training.sizing.probe.forget_resident_peak", lambda: False)
    monkeypatch.setattr("lmu_asr.training.sizing.autoconf.MEASURING_SECONDS", 1e9)


class Data:
    """Training data as a plan sees it."""

    def __init__(self) -> None:
        self.workers = -1

    def lengths(self) -> Lengths:
        return LENGTHS

    def seconds_to_load(self) -> float:
        return 1e-9

    def bytes_to_come(self) -> int:
        return 0

    def use_workers(self, count: int) -> None:
        self.workers = count


class Layers(nn.Module):
    """Layers that can be computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpoint = False
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(F, 512), nn.Tanh(), nn.Linear(512, F)) for _ in range(6)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.grad_checkpoint else layer(x)
        return x


class Deep(nn.Module):
    """A model whose encoder can."""

    def __init__(self, again: bool = False) -> None:
        super().__init__()
        self.encoder = Layers()
        self.encoder.grad_checkpoint = again
        self.head = CtcHead(F, 5)

    def forward(self, x: Tensor, lens: Tensor, targets: Targets | None = None) -> Any:
        return answer(self.head, self.head(self.encoder(x)), lens, targets)


def config(*options: str) -> Config:
    return toy_config(f"features.num_mel_bins={F}", "train.max_duration=10", *options)


def plan_of(free: int, step: GradientStep | None = None, *options: str) -> Plan:
    return make_plan(config(*options), step or step_of(), SPEECH, free)


@pytest.mark.parametrize("cr_ctc", [0.0, 0.2])
def test_predicted_peak_is_the_measured_one(cr_ctc: float) -> None:
    free = 5 * MIB
    plan = make_plan(config(), step_of(None, cr_ctc), SPEECH, free)
    for bucket in plan.buckets:
        assert bucket.tensor_mib is not None and bucket.tensor_mib * MIB <= SHARE["cpu"] * free
        assert bucket.predicted_tensor_mib == pytest.approx(bucket.tensor_mib, rel=0.1)
        assert bucket.micro_rows < bucket.rows == share_of_batch(config(), bucket.frames, 1)
        assert (bucket.micro_batches - 1) * bucket.micro_rows < bucket.rows
        assert bucket.micro_batches * bucket.micro_rows >= bucket.rows
    views = 2 if cr_ctc else 1
    assert plan.limits == [(b.frames, b.micro_rows * b.frames * views) for b in plan.buckets[::-1]]


def test_plenty_of_memory_splits_nothing() -> None:
    plan = plan_of(10**10)
    assert plan.limits == []
    assert [b.rows for b in plan.buckets] == [20, 33]
    assert "fits whole" in plan.summary()[0]
    assert all(b.micro_rows == b.rows and b.seconds for b in plan.buckets)


def test_a_step_that_fails_is_bisected() -> None:
    model = SmallMemory(ToyModel(0.0, 200), 400, "backward")  # less than it pretends to be
    plan = make_plan(config(), step_of(model), SPEECH, 12 * MIB)
    for bucket in plan.buckets:
        most = 400 // bucket.frames
        assert most - max(1, most // 8) <= bucket.micro_rows <= most


def test_one_utterance_too_large_is_said() -> None:
    with pytest.raises(TrainingError, match=r"one utterance of 50 frames does not fit.*max_dur"):
        plan_of(200_000)


def test_recomputation_where_nothing_else_fits() -> None:
    alone = {
        again: Prober(step_of(Deep(again)), F, 1).run(1, SPEECH.buckets[0]).peak
        for again in (False, True)
    }
    assert alone[True] < 0.7 * alone[False]
    step = step_of(Deep())
    adam = 8 * step.flat.gradients.numel()
    plan = plan_of(int(0.5 * (alone[True] + alone[False]) / SHARE["cpu"]) + adam, step)
    assert plan.grad_checkpoint["used"] and "does not fit without" in plan.grad_checkpoint["why"]
    assert not step.model.encoder.grad_checkpoint  # the plan is applied by who asked for it
    with pytest.raises(TrainingError, match=r"model\.grad_checkpoint=true"):
        plan_of(int(0.5 * alone[True]) + adam, step)


def test_recomputation_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = step_of(Deep())
    plan = replace(plan_of(10**10, step), grad_checkpoint={"used": True, "asked": False, "why": ""})
    monkeypatch.setattr(sizing_module, "make_plan", lambda *_, **__: plan)
    Sizing(config(), Data(), tmp_path, WORLD)(step)
    assert step.model.encoder.grad_checkpoint


@pytest.mark.parametrize("times", [(1.0, 2.0), (2.0, 1.0), (None, 1.0)])
def test_recomputation_where_it_is_faster(times: tuple[float | None, float]) -> None:
    faster = times == (1.0, 2.0)
    ours, theirs = bucket_plan(times[0], 8), bucket_plan(times[1], 2)
    planner = FakePlanner(step_of(Deep()), [[theirs], [ours]])
    buckets, about = plan_buckets(planner, config())  # type: ignore[arg-type]
    assert about["used"] is faster and buckets == ([ours] if faster else [theirs])
    assert planner.checkpointing == [False, True]


class FakePlanner:
    """Returns what it was given, and notes whether blocks were to be computed again."""

    def __init__(self, step: GradientStep, plans: list[list[BucketPlan]]) -> None:
        self.prober, self.plans = SimpleNamespace(step=step, probes=[]), iter(plans)
        self.checkpointing: list[bool] = []

    def plan(self) -> list[BucketPlan]:
        self.checkpointing.append(self.prober.step.model.encoder.grad_checkpoint)
        return next(self.plans)


def test_micro_batches_give_the_same_gradient() -> None:
    batch = train_batch(7)
    whole, cut = step_of(ToyModel(0.0)), step_of(ToyModel(0.0))
    cut.limits = [(10, 10), (20, 60), (40, 20)]
    sizes: list[int] = []
    cut.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    whole.run([batch], 1.0)
    cut.run([batch], 1.0)
    assert sizes == [2, 2, 3]
    torch.testing.assert_close(cut.flat.gradients, whole.flat.gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("limits", "pieces"), [([], 1), ([(19, 20), (20, 0)], 1), ([(19, 40)], 3), ([(0, 20)], 6)]
)
def test_limits_go_by_the_longest_utterance(limits: list[tuple[int, int]], pieces: int) -> None:
    step = step_of(ToyModel(0.0))
    step.limits = limits
    sizes: list[int] = []
    step.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    step.run([train_batch(6)], 1.0)  # 20 frames
    assert len(sizes) == pieces


def applied(tmp_path: Path, *options: str, data: Data | None = None) -> GradientStep:
    step = step_of()
    Sizing(config(*options), data or Data(), tmp_path, WORLD)(step)
    return step


def test_a_plan_is_written_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lmu_asr.training.sizing.sizing.free_bytes", lambda *_: 5 * MIB)
    step = applied(tmp_path)
    assert step.limits and max(most for _, most in step.limits) < 1000
    written = (tmp_path / "autoconf.yaml").read_bytes()

    def refuse(*_: object, **__: object) -> Plan:
        raise AssertionError("measured again")

    data = Data()
    with monkeypatch.context() as patch:
        patch.setattr(sizing_module, "make_plan", refuse)
        assert applied(tmp_path, data=data).limits == step.limits
    assert data.workers == 0
    assert (tmp_path / "autoconf.yaml").read_bytes() == written


@pytest.mark.parametrize(
    ("option", "named"),
    [("model.dim=96", "model"), ("train.max_duration=9", "options"), ("", "hardware")],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    option: str,
    named: str,
) -> None:
    applied(tmp_path)
    old = (tmp_path / "autoconf.yaml").read_bytes()
    if not option:
        machine = sizing_module.profile_machine(WORLD.device)
        other = replace(machine, cores=machine.cores + 1)
        monkeypatch.setattr(sizing_module, "profile_machine", lambda _: other)
    caplog.set_level("INFO")
    applied(tmp_path, *([option] if option else []))
    assert f"autoconf.yaml is of other {named}: measuring again" in caplog.text
    assert (tmp_path / "autoconf.yaml").read_bytes() != old


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "key: old\nframe_limit: 3\n", "\x80"])
def test_a_broken_file_is_measured_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "autoconf.yaml").write_bytes(text.encode("latin-1"))
    caplog.set_level("INFO")
    applied(tmp_path)
    assert "not a plan of this version: measuring again" in caplog.text
    values = yaml.safe_load((tmp_path / "autoconf.yaml").read_text())
    assert values["buckets"] and values["probes"] and values["machine"]["cores"] >= 1


def test_options_override(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Data()
    step = applied(tmp_path, "train.frame_limit=123", "train.num_workers=3", data=data)
    assert list(step.limits) == [(0, 123)] and data.workers == 3
    (tmp_path / "autoconf.yaml").unlink()
    caplog.set_level("INFO")
    assert not applied(tmp_path, "train.autoconf=false").limits
    assert "not sized by measurement: train.autoconf=false" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_memory_limit_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"raise train\.memory_mib"):
        applied(tmp_path, "train.memory_mib=2")


def test_memory_that_data_will_take_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing_module, "free_bytes", lambda *_: 5 * MIB)
    data = Data()
    monkeypatch.setattr(data, "bytes_to_come", lambda: 2 * MIB)
    limits = applied(tmp_path, data=data).limits
    assert max(most for _, most in limits) < max(m for _, m in plan_of(5 * MIB).limits)
    assert limits[-1] == plan_of(3 * MIB).limits[-1]


def test_a_cpu_stays_with_float32() -> None:
    precision = plan_of(10**10).precision
    assert precision["used"] == "float32" and precision["bf16_product_over_float32"] > 0
    step = step_of()
    step.precision = torch.bfloat16
    asked = make_plan(config("train.precision=bf16"), step, SPEECH, 10**10).precision
    assert asked == {"asked": "bf16", "used": "bf16"}


def bucket_plan(seconds: float | None, micro_rows: int = 8) -> BucketPlan:
    plan = BucketPlan(100, 5, 9, 8, micro_rows, -(-8 // micro_rows), 1, 1, 1, 1, 1, 1, 1, 1)
    return replace(plan, seconds=seconds)


@pytest.mark.parametrize(
    ("load", "step", "asked", "want"),
    [
        (0.1, 1.0, -1, 0),  # hidden by reading ahead
        (0.9, 1.0, -1, 2),
        (3.0, 1.0, -1, 3),  # more than the cores to spare
        (None, 1.0, -1, 0),
        (0.9, None, -1, 0),
        (0.1, 1.0, 5, 5),
    ],
)
def test_loader_processes_follow_the_times(
    monkeypatch: pytest.MonkeyPatch, load: float | None, step: float | None, asked: int, want: int
) -> None:
    monkeypatch.setattr("lmu_asr.training.sizing.autoconf.available_cores", lambda: 4)
    given = config(f"train.num_workers={asked}")
    assert plan_loading(given, WORLD, load, [bucket_plan(step)])["workers"] == want


def test_processes_agree_on_the_smallest() -> None:
    plan = plan_of(10**10)
    small = replace(plan, buckets=(bucket_plan(1.0, 3), bucket_plan(1.0, 8)))
    large = replace(plan, buckets=(bucket_plan(1.0, 5), bucket_plan(1.0, 4)))
    assert [b.micro_rows for b in common_plan([large, small]).buckets] == [3, 4]
    again = replace(large, grad_checkpoint={"used": True})
    assert common_plan([small, again]).buckets == large.buckets


def test_shares_of_a_batch() -> None:
    ten = config()  # 10 s: 1000 frames
    world = World(0, 2, 0, 2, torch.device("cpu"))
    shares = [share_of_batch(ten, frames, world.world_size) for frames in (50, 300, 5000)]
    assert shares == [10, 2, 1]


def test_a_summary_says_what_is_cut() -> None:
    speech = Speech(1, 50, {"max": 50}, {"max": 9}, 1, (Bucket(50, 9, 1),))
    lines = make_plan(config(), step_of(), speech, 5 * MIB).summary()
    assert "is cut into" in lines[0] and "1 of 1 duration buckets are cut" in lines
