"""What there is to plan with: the machine, the training split, and the memory that a step takes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmu_asr.training.distributed import available_cores
from lmu_asr.training.monitor import host_memory


@dataclass(frozen=True)
class Machine:
    """Hardware that a plan holds for."""

    device: str
    memory_mib: int
    cores: int
    torch: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def profile_machine(device: torch.device) -> Machine:
    """Describe the device and its whole memory (for a CPU: of the machine or control group)."""
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        name, memory = about.name, about.total_memory
    else:
        name, memory = "cpu", host_memory()[0]
    return Machine(name, memory // 2**20, available_cores(), str(torch.__version__))


def free_bytes(device: torch.device, processes: int) -> int:
    """Memory that a process may still take: of its GPU, or its share of the host's."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return host_memory()[1] // processes


@dataclass(frozen=True)
class Speech:
    """Lengths of the training utterances: frames of features, and tokens."""

    utterances: int
    frames: dict[str, int]
    max_tokens: int
    tokens_per_frame: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def profile_speech(lengths: Iterable[tuple[int, int]]) -> Speech:
    """Summarise ``(frames, tokens)`` of every utterance: percentiles 50, 90, 99 and the longest."""
    rows = sorted(lengths)
    frames = [row[0] for row in rows]
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return Speech(
        utterances=len(rows),
        frames={name: frames[round(share * (len(frames) - 1))] for name, share in places.items()},
        max_tokens=max(tokens for _, tokens in rows),
        tokens_per_frame=max(tokens / length for length, tokens in rows),
    )


def can_measure(device: torch.device) -> bool:
    """Whether memory can be measured: on a GPU always, on a CPU where storages tell their end."""
    if device.type == "cuda":
        return True
    freed: list[bool] = []
    tensor = torch.zeros(1)
    if not hasattr(tensor, "untyped_storage"):
        return False
    weakref.finalize(tensor.untyped_storage(), freed.append, True)
    return not freed  # older torch makes a new storage object at every call


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of tensors made inside the block, and their peak, on any device.

    Every storage that an operation returns counts from then until it is freed; scratch memory
    inside one operation does not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self._count(value)
        return out

    def _count(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage.data_ptr()
        if key == 0 or key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size
