"""What a run shows of itself: shares of time by a clock in hand, sums by hand, the bar's fields."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
import torch

from lmu_asr.training.loop import monitor
from lmu_asr.training.loop.monitor import (
    Clock,
    Display,
    Stopwatch,
    clock,
    metrics_line,
    window_metrics,
)
from lmu_asr.training.loop.state import Window

CPU = torch.device("cpu")


class Hand:
    """A clock that moves by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(monitor.time, "monotonic", lambda: self.now)


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    return Hand(monkeypatch)


def test_share_of_time_spent_waiting(hand: Hand) -> None:
    def slow() -> Iterator[int]:
        for item in range(3):
            hand.now += 1.0  # the loader
            yield item

    watch = Stopwatch()
    for _ in watch.waiting(slow()):
        hand.now += 3.0  # the step
    assert watch.read() == pytest.approx((12.0, 0.25))
    with watch.paused():
        hand.now += 50.0  # a validation
    hand.now += 2.0
    assert watch.read() == pytest.approx((2.0, 0.0))


def test_wall_and_cpu_time(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [4.0, 3.0, 2.0, 1.0, 77.0]  # own, own of the system, children's, theirs, any clock
    monkeypatch.setattr(monitor.os, "times", lambda: tuple(times))
    watch = Clock()
    hand.now += 3.0
    times[:] = [4.5, 3.25, 3.0, 1.0, 80.0]
    assert watch.tick() == pytest.approx((3.0, 1.75))
    assert watch.tick() == (0.0, 0.0)


def test_work_is_cpu_time() -> None:
    watch, start = Clock(), time.process_time()
    while time.process_time() - start < 0.1:
        pass
    wall, cpu = watch.tick()
    assert wall > 0.0 and cpu >= 0.08


def test_metrics_of_a_window_by_hand() -> None:
    window = Window(
        loss=600.0,
        frames=300.0,
        grad_norm=8.0,
        steps=4,
        seconds=720.0,
        real_frames=90.0,
        padded_frames=120.0,
    )
    found = window_metrics(window, seconds=2.0, waited=0.1, device=CPU)
    assert found.pop("memory_mib") > 10
    assert found == {
        "loss": 2.0,
        "grad_norm": 2.0,
        "padding": 0.25,
        "audio_hours_per_hour": 360.0,
        "steps_per_second": 2.0,
        "data_wait": 0.1,
    }


METRICS = {
    "loss": 1.5,
    "lr": 1e-3,
    "grad_norm": 2.25,
    "audio_hours_per_hour": 360.4,
    "padding": 0.055,
    "data_wait": 0.012,
    "memory_mib": 700.0,
    "steps_per_second": 2.0,
}


def test_line_has_every_field_and_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    assert metrics_line(METRICS) == (
        "loss 1.5000, lr 1.00e-03, grad norm 2.25, 360 audio-h/h, padding 5.5%, data wait 1.2%, 700 MiB"
    )
    with caplog.at_level(logging.INFO):
        Display(True, 0, 1000).report(3, 400, METRICS)
        Display(False, 0, 1000).report(3, 401, METRICS)
    assert caplog.messages == [
        f"epoch 3 step 400/1000: {metrics_line(METRICS)}, 5:00 left"  # 600 steps at 2 a second
    ]


def test_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor.sys.stderr, "isatty", lambda: True)
    display = Display(True, 10, 40)
    for _ in range(5):
        display.advance()
    display.report(1, 15, METRICS)
    display.close()
    shown = capsys.readouterr().err
    assert "15/40" in shown and metrics_line(METRICS) in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3600, "1:00:00"), (-3, "0:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
