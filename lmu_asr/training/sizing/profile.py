"""What there is to plan with: the machine, the training split, and the memory that a step takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmu_asr.data.batches.lengths import Lengths
from lmu_asr.errors import DataError
from lmu_asr.host_memory import host_memory
from lmu_asr.training.parallel.processes import available_cores

CHANGES_NO_OUTPUT = True

MIB = 2**20
PERCENTILES = {"p1": 0.01, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
BUCKETS = 6


@dataclass(frozen=True)
class Machine:
    """Hardware that a plan holds for; ``memory_mib`` is the device's, on a CPU the host's."""

    device: str
    memory_mib: int
    host_memory_mib: int
    cores: int
    torch: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def profile_machine(device: torch.device) -> Machine:
    """Describe the device and its whole memory (of the host: no more than the control group has)."""
    host = host_memory().total // MIB
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        name, memory = about.name, about.total_memory // MIB
    else:
        name, memory = processor(), host
    return Machine(name, memory, host, available_cores(), str(torch.__version__))


def processor() -> str:
    """Name of the CPU as Linux gives it, elsewhere its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def free_bytes(device: torch.device, processes: int, most_mib: int = 0) -> int:
    """Memory that a process may still take: of its GPU, or its share of the host's.

    Args:
        device: where it computes.
        processes: those that share the host.
        most_mib: what the process may hold in all, in MiB; 0: no limit but the machine's.
    """
    if device.type == "cuda":
        used = torch.cuda.memory_allocated(device)
        # what torch's allocator keeps is free for this process, though not for the driver
        cached = torch.cuda.memory_reserved(device) - used
        free = int(torch.cuda.mem_get_info(device)[0]) + cached
    else:
        gc.collect()  # what only cycles hold is free, too
        give_back_free_memory()
        used, free = resident_bytes() or 0, host_memory().available // processes
    return min(free, max(0, most_mib * MIB - used)) if most_mib else free


@dataclass(frozen=True)
class Bucket:
    """Utterances of similar length: the longest of them, in frames, and the most tokens of any."""

    frames: int
    tokens: int
    utterances: int


@dataclass(frozen=True)
class Speech:
    """Lengths of the training utterances, with buckets of equal audio, the longest one first."""

    utterances: int
    frames_in_all: int
    frames: dict[str, int]
    tokens: dict[str, int]
    tokens_counted: int
    buckets: tuple[Bucket, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = asdict(self)
        return {**values, "buckets": [asdict(bucket) for bucket in self.buckets]}


def profile_speech(lengths: Lengths, buckets: int = BUCKETS) -> Speech:
    """Summarise the lengths of all utterances.

    Raises:
        DataError: there is no utterance.
    """
    if not len(lengths.frames) or not len(lengths.tokens):
        raise DataError("no utterance to train on: see dropped.jsonl for the reasons")
    frames = np.sort(lengths.frames)
    return Speech(
        utterances=len(frames),
        frames_in_all=int(frames.sum()),
        frames=_percentiles(frames),
        tokens=_percentiles(np.sort(lengths.tokens)),
        tokens_counted=len(lengths.tokens),
        buckets=tuple(_buckets(lengths, frames, buckets)),
    )


def _percentiles(ranked: NDArray[np.int64]) -> dict[str, int]:
    return {n: int(ranked[round(p * (len(ranked) - 1))]) for n, p in PERCENTILES.items()}


def _buckets(lengths: Lengths, ranked: NDArray[np.int64], count: int) -> list[Bucket]:
    audio = np.cumsum(ranked, dtype=np.float64)
    places = np.searchsorted(audio, audio[-1] * np.arange(1, count + 1) / count)
    # few distinct lengths give fewer buckets
    edges = np.unique(ranked[np.minimum(places, len(ranked) - 1)])
    sizes = np.searchsorted(ranked, edges, side="right")
    counted = lengths.frames[lengths.counted]
    rate = float((lengths.tokens / counted).max())  # for a bucket none of which was counted
    found = []
    for number, edge in enumerate(edges.tolist()):
        least = edges[number - 1] if number else -1
        own = lengths.tokens[(counted > least) & (counted <= edge)]
        tokens = int(own.max()) if len(own) else round(rate * edge)
        size = int(sizes[number] - (sizes[number - 1] if number else 0))
        found.append(Bucket(edge, max(1, tokens), size))
    return found[::-1]


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

    Args:
        before: tensors that are there already, so that views of them are nothing new.
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in before}

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
        # an empty storage has address 0; a known one is a view or was there before
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


def resident_bytes(peak: bool = False) -> int | None:
    """Resident memory of this process, now or at its peak; None where the system does not tell."""
    name = "VmHWM:" if peak else "VmRSS:"
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None


class ResidentGrowth:
    """How far resident memory grows inside the block, at its peak, in bytes.

    Garbage in cycles that was there before is not collected inside: its memory would go back to the
    system in the middle of the measurement, and the block would seem to need less than it takes.

    Attributes:
        bytes: set on leaving; 0 before, and where the system does not tell.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> ResidentGrowth:
        self._collects = gc.isenabled()
        gc.disable()
        forget_resident_peak()
        self._before = resident_bytes() or 0
        return self

    def __exit__(self, *error: object) -> None:
        self.bytes = max(0, (resident_bytes(peak=True) or 0) - self._before)
        if self._collects:
            gc.enable()


def forget_resident_peak() -> bool:
    """Let the peak of resident memory start anew, from what is in use; whether that works (Linux)."""
    give_back_free_memory()
    try:
        # 5 sets VmHWM back (proc(5))
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def give_back_free_memory() -> None:
    """Return memory that was freed to the system, where the C library can do that (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
