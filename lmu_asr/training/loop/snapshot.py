"""The tensors of a checkpoint: taken from a run, and put back into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from lmu_asr.checkpoints.checkpoint import Checkpoint
from lmu_asr.errors import CheckpointError
from lmu_asr.training.loop.optim import RunningAverage, load_optimizer
from lmu_asr.training.loop.state import restore_random_states
from lmu_asr.training.parallel.processes import World, log_main
from lmu_asr.training.parallel.whole import optimizer_parts, part_of, parts, whole

# what torch, NumPy and Python say to a state that is none of theirs
NOT_OURS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError)


def collect(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: RunningAverage | None,
    ranks: Sequence[dict[str, Any]],
    world: World,
) -> dict[str, Any]:
    """Tensors of a run: weights, their running average, optimiser, and what each rank has of its own.

    All processes call it; where parameters lie in shards, rank 0 alone gets them whole.
    """
    tensors = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ranks": {str(rank): state for rank, state in enumerate(ranks)},
    }
    if average is not None:
        tensors["ema"] = average.weights
    return cast("dict[str, Any]", whole(tensors, world.is_main))


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: RunningAverage | None,
) -> None:
    """Put weights, optimiser state and running average back.

    Raises:
        CheckpointError: names, shapes or groups are not those of this model.
    """
    tensors = checkpoint.tensors
    try:
        # weights first: DeepSpeed's optimiser copies them when its state is loaded
        model.load_state_dict(parts(tensors["model"], model.state_dict()))
        load_optimizer(optimizer, optimizer_parts(tensors["optimizer"], optimizer))
        if average is not None:
            for name, value in average.weights.items():
                value.copy_(part_of(tensors["ema"][name], value))
    except NOT_OURS as error:
        raise CheckpointError(f"{checkpoint.path}: of another model: {error}") from error


def restore_rank(checkpoint: Checkpoint, world: World) -> int | None:
    """Put this rank's random states back; returns its limit of frames in a chunk, if it had one.

    With another number of processes the ranks start afresh: batches stay the same, since a
    position counts global batches, but random draws such as dropout differ.
    """
    before = checkpoint.meta.get("world_size")
    if before != world.world_size:
        log_main(
            world,
            "%s processes instead of %s: global batches stay the same, dropout differs",
            world.world_size,
            before,
        )
        return None
    try:
        own = checkpoint.tensors["ranks"][str(world.rank)]
        restore_random_states(own["random"], world.device)
        return int(own["frame_limit"]) or None
    except NOT_OURS as error:
        raise CheckpointError(f"{checkpoint.path}: no random states in it: {error}") from error
