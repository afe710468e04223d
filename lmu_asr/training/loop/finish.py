"""The end of a run: averaged weights, its record for the results table, and its curves."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lmu_asr.checkpoints.checkpoint import (
    CheckpointStore,
    average_weights,
    load_weights,
    save_checkpoint,
)
from lmu_asr.config import Config
from lmu_asr.errors import CheckpointError, TrainingError
from lmu_asr.files import write_json
from lmu_asr.training.loop.metrics import plot_training
from lmu_asr.training.loop.monitor import clock
from lmu_asr.training.loop.optim import count_parameters
from lmu_asr.training.loop.state import EpochRecord, RunState, environment
from lmu_asr.training.parallel.processes import World

EPOCH_DIR = "epochs"


def keep_epoch(
    store: CheckpointStore, weights: Mapping[str, Tensor], epochs: Sequence[EpochRecord], count: int
) -> None:
    """Keep the newest epoch's weights for averaging if it is among the ``count`` best so far."""
    best = best_epochs(epochs, count)
    newest = epochs[-1]
    if newest in best:
        store.save_extra(
            _epoch_name(newest.epoch), {"model": dict(weights)}, {"epoch": newest.epoch}
        )
    kept = {_epoch_name(record.epoch) for record in best}
    for path in store.directory.glob(f"{EPOCH_DIR}/epoch-*.pt"):
        if f"{EPOCH_DIR}/{path.name}" not in kept:
            path.unlink(missing_ok=True)


def best_epochs(epochs: Sequence[EpochRecord], count: int) -> list[EpochRecord]:
    """The ``count`` epochs of the lowest dev error rate (ties: loss), in order of time."""
    return sorted(sorted(epochs, key=EpochRecord.rank)[:count], key=lambda record: record.epoch)


def average_epochs(
    store: CheckpointStore,
    epochs: Sequence[EpochRecord],
    count: int,
    identity: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Average the weights of the best epochs into ``averaged.pt`` and return them.

    ``identity`` is written with them.

    Raises:
        TrainingError: no weights of any epoch are left.
    """
    found, used = [], []
    # with count 1 best.pt is that epoch already
    for record in best_epochs(epochs, count) if count > 1 else []:
        try:
            found.append(load_weights(store.directory / _epoch_name(record.epoch)))
            # counted from 1 wherever a person reads them
            used.append(record.epoch + 1)
        except CheckpointError as error:
            logging.warning("%s; averaging without it", error)
    if not found:
        try:
            found.append(load_weights(store.directory / "best.pt"))
        except CheckpointError as error:
            raise TrainingError(f"nothing to average: {error}") from error
    weights = average_weights(found)
    meta = {"averaged_epochs": used, "identity": dict(identity or {})}
    save_checkpoint(store.directory / "averaged.pt", {"model": weights}, meta)
    return weights


def write_summary(
    exp_dir: Path,
    config: Config,
    model: nn.Module,
    state: RunState,
    rows: Sequence[dict[str, Any]],
    world: World,
) -> None:
    """Write ``training.json`` and ``train.png``, and say in one line what the run took."""
    seconds = max(state.wall_seconds, 1e-9)
    unit = "phone" if config.lang.unit == "phone" else "word"
    plot_training(rows, exp_dir / "train.png", f"{config.corpus.name} {config.variant}", unit)
    write_json(exp_dir / "training.json", _summary(model, state, rows, world, seconds))
    logging.info(
        "training took %s: %d steps, %d epochs, %.0f audio-hours per hour, best dev error rate "
        "%.2f %% (epoch %d), %d steps skipped",
        clock(seconds),
        state.step,
        state.epoch,
        state.audio_seconds / seconds,
        100 * state.best_wer,
        state.best_epoch + 1,
        state.skipped,
    )


def _summary(
    model: nn.Module,
    state: RunState,
    rows: Sequence[dict[str, Any]],
    world: World,
    seconds: float,
) -> dict[str, Any]:
    """What ``training.json`` holds."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": count_parameters(model),
        "epochs": state.epoch,
        "steps": state.step,
        "skipped_steps": state.skipped,
        "out_of_memory_retries": state.out_of_memory,
        "seconds": round(seconds, 3),
        "seconds_per_epoch": round(seconds / max(state.epoch, 1), 3),
        "cpu_seconds": round(state.cpu_seconds, 3),
        "audio_hours": round(state.audio_seconds / 3600.0, 6),
        "audio_hours_per_hour": round(state.audio_seconds / seconds, 3),
        "best_epoch": state.best_epoch + 1,
        "best_dev_wer": _finite(state.best_wer),
        "best_dev_loss": _finite(state.best_loss),
        "averaged_dev_wer": _finite(rows[-1].get("wer", math.nan)) if rows else None,
        "processes": world.world_size,
        "device": world.device.type,
        "environment": environment(),
        "finished": state.finished,
    }


def _epoch_name(epoch: int) -> str:
    return f"{EPOCH_DIR}/epoch-{epoch + 1}.pt"


def _finite(value: float) -> float | None:
    # JSON has neither NaN nor infinity
    return value if math.isfinite(value) else None
