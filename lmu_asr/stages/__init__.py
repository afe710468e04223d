"""The stages of a recipe, one module each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmu_asr.stages.common import Stage


def load_stage(name: str) -> Stage:
    """Return the stage of that name."""
    stage: Stage = importlib.import_module(f"lmu_asr.stages.{name}").STAGE
    return stage
