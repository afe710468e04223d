"""The strategy that ``train.strategy`` names."""

from __future__ import annotations

from lmu_asr.config import Config
from lmu_asr.training.parallel.deepspeed import DeepSpeed
from lmu_asr.training.parallel.fsdp import Fsdp, Zero2
from lmu_asr.training.parallel.processes import World
from lmu_asr.training.parallel.strategy import Strategy, is_for_several

SPLIT: dict[str, type[Strategy]] = {"fsdp": Fsdp, "zero2": Zero2, "deepspeed": DeepSpeed}


def choose_strategy(config: Config, world: World) -> Strategy:
    """How the processes of ``world`` hold the model.

    Raises:
        TrainingError: the strategy's package is missing, or the optimiser cannot be split.
    """
    return SPLIT[config.train.strategy]() if is_for_several(config, world) else Strategy()
