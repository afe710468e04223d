"""One batch of features, for training, validation and decoding.

Legend: N batch, T frames, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """Padded features and what belongs to them.

    Attributes:
        features: (N, T, F) float32, padded with the log of the energy floor.
        feature_lens: (N,) int64, frames.
        texts: transcripts.
        ids: cut ids.
        durations: seconds.
    """

    features: Tensor
    feature_lens: Tensor
    texts: list[str]
    ids: list[str]
    durations: list[float]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch with its tensors in pinned memory."""
        return self._each(lambda t: t.pin_memory())

    def _each(self, change: Any) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed)
