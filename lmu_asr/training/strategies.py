"""The strategy that ``train.strategy`` names."""

from __future__ import annotations

from lmu_asr.config import Config
from lmu_asr.training.distributed import World
from lmu_asr.training.sharded import Fsdp
from lmu_asr.training.strategy import Strategy, is_for_several
from lmu_asr.training.zero import Zero

SPLIT: dict[str, type[Strategy]] = {"fsdp": Fsdp, "deepspeed": Zero}


def choose_strategy(config: Config, world: World) -> Strategy:
    """How the processes of ``world`` hold the model.

    Raises:
        TrainingError: the strategy's package is missing, or the optimiser cannot be split.
    """
    return SPLIT[config.train.strategy]() if is_for_several(config, world) else Strategy()
