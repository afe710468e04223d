"""Tensors that lie in parts on several processes: gathered for checkpoints, cut when one is read.

Whole tensors pass through unchanged, so that callers need not know which strategy trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def is_shard(value: Any) -> bool:
    """Whether a tensor is one process's part of a larger one."""
    return hasattr(value, "full_tensor")


def whole(value: Any, keep: bool) -> Any:
    """Gather every sharded tensor in nested dictionaries and lists, one at a time.

    A collective: all processes call it. Tensors that were sharded are returned on the CPU where
    ``keep`` says so and as None elsewhere; others as they are.
    """
    if is_shard(value):
        # every process gathers, also those that keep nothing: gathering is a collective
        full = value.full_tensor()
        return full.detach().cpu() if keep else None
    if isinstance(value, dict):
        return {k: whole(v, keep) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(item, keep) for item in value)
    return value


def parts(values: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Cut whole tensors to the parts that the tensors of the same name in ``like`` are."""
    return {name: part_of(value, like.get(name)) for name, value in values.items()}


def part_of(value: Any, like: Any) -> Any:
    """This process's part of ``value``, cut as ``like`` is; ``value`` itself where nothing is cut."""
    if not is_shard(like) or is_shard(value) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    moved = value.to(like.device)
    # no rank sends: every process holds the whole tensor and cuts out its own part
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def optimizer_parts(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Cut the whole tensors of a saved optimiser state to the parts of this process."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        index: {name: part_of(value, parameters[index]) for name, value in entry.items()}
        for index, entry in saved["state"].items()
    }
    return {**saved, "state": state}
