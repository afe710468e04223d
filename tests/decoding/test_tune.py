"""The choice of scales: by dev errors alone, ties to the smallest, recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lmu_asr.config import DecodeConfig
from lmu_asr.decoding.tune import Scales, load_scales, save_scales, scale_grid, tune_scales
from lmu_asr.errors import ConfigError, DataError
from lmu_asr.scoring.score import ErrorCounts

CONFIG = DecodeConfig(
    acoustic_scales=[1.0, 0.5], lm_scales=[0.7, 0.3, 0.3], blank_penalties=[0.0, 2.0]
)


@pytest.mark.parametrize(
    ("method", "points"),
    [
        ("greedy", [Scales(blank_penalty=0.0), Scales(blank_penalty=2.0)]),
        ("prefix_beam", [Scales(1.0, lm, b) for lm in (0.3, 0.7) for b in (0.0, 2.0)]),
        (
            "HLG",
            [Scales(a, lm, b) for a in (0.5, 1.0) for lm in (0.3, 0.7) for b in (0.0, 2.0)],
        ),
    ],
)
def test_grid_holds_only_what_the_method_uses(method: str, points: list[Scales]) -> None:
    assert scale_grid(method, CONFIG) == points


def test_grid_refuses_unknown_methods_and_empty_lists() -> None:
    with pytest.raises(ConfigError, match="'viterbi' is not one of greedy"):
        scale_grid("viterbi", CONFIG)
    with pytest.raises(ConfigError, match=r"decode.lm_scales: empty, HLG needs"):
        scale_grid("HLG", DecodeConfig(lm_scales=[]))
    with pytest.raises(ConfigError, match="no scales to try"):
        tune_scales("HLG", "dev", [], lambda _: ErrorCounts())


def test_lowest_rate_wins_and_every_trial_is_kept() -> None:
    errors = {0.3: 4, 0.5: 2, 0.7: 3}
    grid = [Scales(lm_scale=s) for s in errors]
    tuned = tune_scales("HLG", "dev", grid, lambda s: ErrorCounts(0, 0, errors[s.lm_scale], 10))
    assert tuned.scales == Scales(lm_scale=0.5)
    assert tuned.rate == 20.0
    assert [(t.scales.lm_scale, t.rate) for t in tuned.trials] == [
        (0.3, 40.0),
        (0.5, 20.0),
        (0.7, 30.0),
    ]
    assert tuned.chosen == {"acoustic_scale": 1.0, "lm_scale": 0.5, "blank_penalty": 0.0}


def test_ties_go_to_the_smallest_scales() -> None:
    grid = [Scales(a, lm) for a in (1.0, 0.5) for lm in (0.7, 0.3)]
    tuned = tune_scales("HLG", "dev", grid, lambda _: ErrorCounts(0, 0, 1, 10))
    assert tuned.scales == Scales(0.5, 0.3)


def test_dev_without_references_still_gives_scales() -> None:
    tuned = tune_scales("HLG", "dev", scale_grid("HLG", CONFIG), lambda _: ErrorCounts(1, 0, 0, 0))
    assert tuned.scales == Scales(0.5, 0.3, 0.0)


def test_scales_file_reads_back(tmp_path: Path) -> None:
    tuned = {
        method: tune_scales(
            method,
            "dev",
            scale_grid(method, CONFIG),
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


@pytest.mark.parametrize(("best", "said"), [(0.3, True), (0.5, False), (0.7, True)])
def test_a_choice_at_the_edge_is_said(
    best: float, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    grid = [Scales(lm_scale=s) for s in (0.3, 0.5, 0.7)]
    with caplog.at_level("INFO"):
        tune_scales("HLG", "dev", grid, lambda s: ErrorCounts(0, 0, int(s.lm_scale != best), 10))
    assert (f"best lm_scale {best} is the last of those tried" in caplog.text) == said
