"""What a run is besides its weights: position, records, random states, and whom a checkpoint belongs to."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from lmu_asr.errors import CheckpointError, DocumentError
from lmu_asr.records import record


@dataclass
class Window:
    """Sums since the last log line, over all processes."""

    loss: float = 0.0
    frames: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    real_frames: float = 0.0
    padded_frames: float = 0.0


@dataclass
class EpochRecord:
    """One epoch's validation; ``by_loss``: the loss tells more of a search than greedy decoding."""

    epoch: int
    step: int
    wer: float
    loss: float
    seconds: float
    by_loss: bool = False

    def rank(self) -> tuple[float, float]:
        """Error rate, then loss, or the other way: lower is better, undefined is worst."""
        wer, loss = (math.inf if math.isnan(v) else v for v in (self.wer, self.loss))
        return (loss, wer) if self.by_loss else (wer, loss)


@dataclass
class RunState:
    """Position and records of a run; everything that is not a tensor and must survive a kill.

    ``epoch`` and ``batch`` count finished epochs and the batches taken of the next; ``step`` counts
    optimiser steps tried, ``updates`` those not skipped.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    updates: int = 0
    steps_per_epoch: int = 0
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_wer: float = math.inf
    best_loss: float = math.inf
    best_epoch: int = 0
    bad_validations: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    out_of_memory: int = 0
    finished: bool = False
    loss_scale: float = 1.0
    loss_scale_good_steps: int = 0
    window: Window = field(default_factory=Window)
    epochs: list[EpochRecord] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunState:
        """Rebuild from :meth:`to_json`; fields of another version are left at their defaults.

        Raises:
            CheckpointError: a field of another type.
        """
        try:
            return record(cls, values, "state", spare=True)
        except DocumentError as error:
            raise CheckpointError(f"{error}: not a run of this version") from error


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from any JSON values: the same parts, the same seed, on every machine."""
    # not hash(), which differs between processes for texts
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_everything(*parts: Any) -> None:
    """Seed torch, NumPy and Python from ``parts``."""
    seed = derive_seed(*parts)
    torch.manual_seed(seed)
    # NumPy's legacy generator takes 32 bits
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_states(device: torch.device) -> dict[str, Any]:
    """All random states of this process: tensors and plain lists."""
    name, keys, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        # int64, since torch's support of NumPy's uint32 is recent and partial
        "numpy_keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python_keys": torch.tensor(internal, dtype=torch.int64),
        "rest": json.dumps([name, *rest, version, gauss]),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Set all random states of this process from :func:`random_states`.

    Raises:
        ValueError, TypeError, LookupError, RuntimeError, AttributeError: they are not such states.
    """
    name, position, has_gauss, cached, version, gauss = json.loads(states["rest"])
    torch.set_rng_state(states["torch"])
    keys = states["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))
    random.setstate((version, tuple(states["python_keys"].tolist()), gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def environment() -> dict[str, str]:
    """Versions and machine that a run was made with (no host name)."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
    }
