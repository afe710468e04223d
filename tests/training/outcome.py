"""What two runs must have in common: weights, records and history, all but times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmu_asr.checkpoints.checkpoint import CheckpointStore, load_checkpoint
from lmu_asr.training.loop.metrics import read_metrics

TIMES = (
    "seconds",
    "wall_seconds",
    "cpu_seconds",
    "epoch_seconds",
    "audio_hours_per_hour",
    "steps_per_second",
    "data_wait",
    "memory_mib",
)


def outcome(exp_dir: Path) -> dict[str, Any]:
    """Tensors and records of a run's newest checkpoint and averaged weights, without times."""
    found = CheckpointStore(exp_dir, 1).latest_good()
    if found is None:
        raise FileNotFoundError(exp_dir)
    return {
        "tensors": found.tensors,
        "best": load_checkpoint(exp_dir / "best.pt").tensors["model"],
        "averaged": load_checkpoint(exp_dir / "averaged.pt").tensors,
        "state": without_times(found.meta["state"]),
        "metrics": without_times(found.meta["metrics"]),
        "file": without_times(read_metrics(exp_dir / "metrics.jsonl")),
    }


def without_times(value: Any) -> Any:
    """Drop every measured time."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Places where two nests of tensors and values are not bit-equal."""
    if isinstance(ours, Tensor):
        return [] if torch.equal(ours, theirs) and ours.dtype == theirs.dtype else [where]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [f"{where}: {sorted(map(str, ours.keys() ^ theirs.keys()))}"]
        return [d for k in ours for d in differences(ours[k], theirs[k], f"{where}/{k}")]
    if isinstance(ours, (list, tuple)):
        if len(ours) != len(theirs):
            return [f"{where}: {len(ours)} and {len(theirs)} items"]
        return [
            d
            for k, pair in enumerate(zip(ours, theirs, strict=True))
            for d in differences(*pair, f"{where}/{k}")
        ]
    return [] if ours == theirs else [f"{where}: {ours!r} and {theirs!r}"]
