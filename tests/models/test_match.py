"""Widths that make variants equal in parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmu_asr.config import ModelConfig
from lmu_asr.errors import ModelError
from lmu_asr.models.match import match_parameters, parameters_of

SMALL = ModelConfig(dim=24, num_layers=2, thetas=[3.0, 9.0], memory_order=4, num_heads=2)


@pytest.mark.parametrize("encoder", ["lmu", "lmu_cell", "lmu_parallel", "lstm", "transformer"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("target", [20_000, 300_000])
def test_no_other_width_comes_nearer(encoder: str, bidirectional: bool, target: int) -> None:
    config = replace(SMALL, encoder=encoder, bidirectional=bidirectional)
    found = match_parameters(config, target, 10, 7)
    error = abs(parameters_of(found, 10, 7) - target)
    assert error < 0.02 * target
    for step in (-1, 1):
        if encoder in ("lmu", "transformer"):
            other = replace(found, ff_mult=round(found.ff_mult * 24 + step) / 24)
        else:
            other = replace(found, hidden=found.hidden + step)
        assert abs(parameters_of(other, 10, 7) - target) >= error


def test_target_below_the_least_size_is_refused() -> None:
    with pytest.raises(ModelError, match="over the 1000 asked for"):
        match_parameters(replace(SMALL, encoder="transformer"), 1000, 10, 7)


def test_the_seed_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    match_parameters(SMALL, 50_000, 10, 7)
    assert torch.equal(before, torch.random.get_rng_state())
