"""A real limit on memory: chunks in place of failure, on one process of two, without deadlock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmu_asr.checkpoints.checkpoint import load_checkpoint
from lmu_asr.training.loop.metrics import read_metrics
from tests.training.toy import run

# activations of about 15 MB each: 6 of them fit into the headroom, a step needs more
OPTIONS = ["toy.width=30000", "model.dropout=0", "train.epochs=1", "train.lr=0.0002"]


@pytest.mark.parametrize("size", [1, 2])
def test_limited_address_space(tmp_path: Path, size: int) -> None:
    headroom = 50 if size == 1 else 35
    run(tmp_path / "calm", *OPTIONS, size=size)
    run(tmp_path / "tight", *OPTIONS, f"toy.headroom={headroom}", size=size)
    retries = [
        row for row in read_metrics(tmp_path / "tight/metrics.jsonl") if row["kind"] == "memory"
    ]
    assert retries
    calm, tight = (
        load_checkpoint(tmp_path / d / "last.pt").tensors["model"] for d in ("calm", "tight")
    )
    start = torch.zeros(())
    for name, value in calm.items():
        torch.testing.assert_close(tight[name], value, rtol=0, atol=1e-6)
        start = torch.maximum(start, value.abs().max())
    assert start > 0.1
