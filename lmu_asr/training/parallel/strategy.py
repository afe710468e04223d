"""How several processes hold one model: whole in each, or in parts.

A strategy places the model, makes its optimiser and its gradient step; the trainer knows no other
difference between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import nn

from lmu_asr.config import Config, TrainConfig
from lmu_asr.errors import TrainingError
from lmu_asr.training.loop.optim import build_optimizer
from lmu_asr.training.loop.step import GradientStep
from lmu_asr.training.parallel.processes import World


class Strategy:
    """``train.strategy=ddp``: the whole model, its gradients and its optimiser state in each process."""

    gradient_step: type[GradientStep] = GradientStep

    def place(self, model: nn.Module, world: World) -> nn.Module:
        """Move ``model`` to the device; it has the same weights in every process before."""
        return model.to(world.device)

    def optimizer(self, model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        """The optimiser of the placed model."""
        return build_optimizer(model, config)

    def trained(self, model: nn.Module) -> nn.Module:
        """What forward and backward passes of the placed model go through."""
        return model

    def step(
        self,
        model: nn.Module,
        world: World,
        precision: torch.dtype | None,
        reseed: Callable[[], None],
    ) -> GradientStep:
        """The gradient step of the placed model; arguments as of :class:`GradientStep`."""
        return self.gradient_step(self.trained(model), world, precision, reseed)


def is_for_several(config: Config, world: World) -> bool:
    """Whether what ``train.strategy`` splits can be split: there is more than one process.

    Raises:
        TrainingError: the optimiser cannot be split.
    """
    name, optimizer = config.train.strategy, config.train.optimizer
    if name == "ddp":
        return False
    if world.world_size == 1:
        logging.warning("train.strategy=%s has no effect with one process: same as ddp", name)
        return False
    if optimizer != "adamw":
        raise TrainingError(
            f"train.strategy={name} with train.optimizer={optimizer}: shards need adamw"
        )
    return True
