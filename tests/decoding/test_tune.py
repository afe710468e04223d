"""The choice of scales: by dev errors alone, ties to the smallest, recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lmu_asr.config import DecodeConfig
from lmu_asr.decoding.tune import Scales, load_scales, save_scales, scale_axes, tune_scales
from lmu_asr.errors import ConfigError, DataError
from lmu_asr.scoring.score import ErrorCounts

CONFIG = DecodeConfig(
    acoustic_scales=[1.0, 0.5], lm_scales=[0.7, 0.3, 0.3], blank_penalties=[0.0, 2.0]
)


def errors(rate: int) -> ErrorCounts:
    return ErrorCounts(0, 0, rate, 1000)


@pytest.mark.parametrize(
    ("method", "axes"),
    [
        ("greedy", {"blank_penalty": (0.0, 2.0)}),
        ("prefix_beam", {"lm_scale": (0.3, 0.7), "blank_penalty": (0.0, 2.0)}),
        (
            "HLG",
            {"acoustic_scale": (0.5, 1.0), "lm_scale": (0.3, 0.7), "blank_penalty": (0.0, 2.0)},
        ),
    ],
)
def test_axes_are_those_the_method_uses(method: str, axes: dict) -> None:
    assert scale_axes(method, CONFIG) == axes


def test_axes_refuse_unknown_methods_and_empty_lists() -> None:
    with pytest.raises(ConfigError, match="search 'viterbi': want one of greedy"):
        scale_axes("viterbi", CONFIG)
    with pytest.raises(ConfigError, match=r"decode.lm_scales: empty, HLG needs"):
        scale_axes("HLG", DecodeConfig(lm_scales=[]))


def test_lowest_rate_wins_and_every_trial_is_kept() -> None:
    rates = {0.3: 4, 0.5: 2, 0.7: 3}
    tuned = tune_scales(
        "HLG", "dev", {"lm_scale": [0.7, 0.3, 0.5]}, lambda s: errors(rates[s.lm_scale])
    )
    assert tuned.scales == Scales(lm_scale=0.5)
    assert tuned.rate == 0.2
    assert {t.scales.lm_scale: t.rate for t in tuned.trials} == {0.3: 0.4, 0.5: 0.2, 0.7: 0.3}
    assert tuned.chosen == {"acoustic_scale": 1.0, "lm_scale": 0.5, "blank_penalty": 0.0}


@pytest.mark.parametrize("best", [(0.15, -2.0), (0.5, 0.0), (1.1, 3.0), (1.7, 6.0)])
def test_a_slanted_valley_is_followed_past_the_ends_of_the_lists(best: tuple) -> None:
    def valley(s: Scales) -> ErrorCounts:
        a, b = s.lm_scale - best[0], (s.blank_penalty - best[1]) / 5.0
        return errors(10 + round(1000 * (a * a + b * b - a * b)))

    axes = {"lm_scale": (0.3, 0.5, 0.7), "blank_penalty": (0.0, 1.0)}
    tuned = tune_scales("HLG", "dev", axes, valley)
    assert abs(tuned.scales.lm_scale - best[0]) < 0.21
    assert abs(tuned.scales.blank_penalty - best[1]) <= 1.0
    assert len(tuned.trials) < 40


def test_one_value_is_fixed_and_scales_stay_positive() -> None:
    tried: list[Scales] = []

    def falls(s: Scales) -> ErrorCounts:
        tried.append(s)
        return errors(round(900 * s.lm_scale) + 50)

    tuned = tune_scales("HLG", "dev", {"lm_scale": [0.4, 0.2], "blank_penalty": [1.5]}, falls)
    assert {s.blank_penalty for s in tried} == {1.5}
    assert len(set(tried)) == len(tried) == len(tuned.trials)
    assert 0.0 < tuned.scales.lm_scale < 0.01


def test_a_choice_at_the_last_end_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        tuned = tune_scales(
            "HLG", "dev", {"lm_scale": [1.0, 2.0]}, lambda s: errors(999 - int(s.lm_scale))
        )
    assert tuned.scales.lm_scale == 8.0
    assert "best lm_scale 8 is the last of those tried" in caplog.text


def test_ties_go_to_the_smallest_scales() -> None:
    axes = {"acoustic_scale": [1.0, 0.5], "lm_scale": [0.7, 0.3], "blank_penalty": [1.0, 0.0]}
    tuned = tune_scales(
        "HLG", "dev", axes, lambda s: errors(int(s.lm_scale < 0.3 or s.acoustic_scale < 0.5))
    )
    assert tuned.scales == Scales(0.5, 0.3, 0.0)


def test_dev_without_references_still_gives_scales() -> None:
    tuned = tune_scales("HLG", "dev", scale_axes("HLG", CONFIG), lambda _: ErrorCounts(1, 0, 0, 0))
    assert tuned.scales == Scales(0.5, 0.3, 0.0)


def test_scales_file_reads_back(tmp_path: Path) -> None:
    tuned = {
        method: tune_scales(
            method,
            "dev",
            scale_axes(method, CONFIG),
            lambda s: ErrorCounts(int(s.lm_scale < 0.5), 0, 0, int(s.blank_penalty)),
        )
        for method in ("greedy", "HLG")
    }
    assert any(math.isinf(t.rate) for t in tuned["HLG"].trials)
    save_scales(tmp_path / "scales.json", tuned, {"checkpoint": "ab"})
    json.loads((tmp_path / "scales.json").read_text(), parse_constant=pytest.fail)
    assert load_scales(tmp_path / "scales.json") == tuned


@pytest.mark.parametrize("text", ["{", "[]", '{"methods": {"HLG": {"rate": 1}}}'])
def test_broken_scales_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "scales.json").write_text(text)
    with pytest.raises(DataError, match="not a file of scales"):
        load_scales(tmp_path / "scales.json")
