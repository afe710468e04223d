"""What differs from torch 1.13, which the environment of k2 has, to torch 2.13: all of it is here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

FLOAT = "__float__"


def torch_version() -> tuple[int, ...]:
    """Major and minor number of the torch that runs."""
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])


def has_fully_shard() -> bool:
    """Whether FSDP2 (``fully_shard``) does all that training asks of it."""
    return torch_version() >= (2, 7)


def has_fused_adamw(parameters: Sequence[Tensor]) -> bool:
    """Fused AdamW runs on a GPU from torch 2.0 and on a CPU from 2.4."""
    on_gpu = all(p.is_cuda for p in parameters)
    return torch_version() >= ((2, 0) if on_gpu else (2, 4))


def keep_empty_memory_empty() -> None:
    """Deterministic mode would fill every new tensor with NaN, which costs time and no run needs."""
    if hasattr(torch.utils, "deterministic"):
        cast(Any, torch.utils.deterministic).fill_uninitialized_memory = False


def in_cpu_autocast() -> bool:
    """Whether autocast is on for the CPU; torch before 2.4 asks for it by another name."""
    if hasattr(torch, "get_autocast_dtype"):
        return torch.is_autocast_enabled("cpu")
    return torch.is_autocast_cpu_enabled()


def has_linear_pointwise() -> bool:
    """Whether torch was built with oneDNN and gives its linear product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def packed(value: Any) -> Any:
    """Write numbers as text: the safe loader of torch 1.13 knows no floats outside tensors."""
    if isinstance(value, float):
        return {FLOAT: float(value).hex()}
    if type(value) is dict:
        return {key: packed(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(packed(item) for item in value)
    return value


def unpacked(value: Any) -> Any:
    """Undo :func:`packed`."""
    if type(value) is dict:
        if value.keys() == {FLOAT}:
            return float.fromhex(value[FLOAT])
        return {key: unpacked(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(unpacked(item) for item in value)
    return value
