"""Optimisation: AdamW with decay on matrices alone, learning-rate schedules, running average, loss scale."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmu_asr.config import TrainConfig
from lmu_asr.errors import ConfigError
from lmu_asr.torch_versions import has_fused_adamw
from lmu_asr.training.loop.finetune import with_lr_scales
from lmu_asr.training.parallel.whole import parts


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); vectors, biases and scales are not decayed.

    With ``train.optimizer=adamw8bit`` its moments are kept in 8 bits (Dettmers et al. 2022) for
    parameters of 4,096 numbers or more.

    Raises:
        ConfigError: the package bitsandbytes is not installed or does not work here.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = with_lr_scales([group for group in groups if group["params"]], model, config.lr_scales)
    options: dict[str, Any] = {"lr": config.lr, "betas": tuple(config.betas[:2]), "eps": 1e-8}
    if config.optimizer == "adamw8bit":
        return _adamw_8bit(groups, options)
    if has_fused_adamw(parameters):
        options["fused"] = True
    return torch.optim.AdamW(groups, **options)


def _adamw_8bit(groups: list[dict[str, Any]], options: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"train.optimizer=adamw8bit needs the package bitsandbytes ({error}): "
            "./utils/setup.sh --with-extras"
        ) from error
    return AdamW8bit(groups, **options)


def learning_rate(
    step: int, total_steps: int, config: TrainConfig, steps_per_epoch: int = 1
) -> float:
    """Learning rate of optimiser step ``step`` (from 1) of ``total_steps``.

    Linear warm-up over ``warmup_steps``, then, never below ``min_lr_ratio`` of the peak:

    - ``cosine`` down to that at the last step;
    - ``constant``;
    - ``constant_decay``: the peak, then a straight line over the last ``decay_share`` of all steps;
    - ``noam``: the inverse square root of the step (Vaswani et al. 2017), the peak at the end of
      the warm-up;
    - ``eden``: ``(1 + (step / eden_steps)^2)^-1/4 (1 + (epoch / eden_epochs)^2)^-1/4`` (Yao et al.
      2023, Zipformer), during the warm-up too, epochs counted in fractions.
    """
    # a run shorter than its warm-up still reaches the peak, one step before its end
    warmup = min(config.warmup_steps, max(total_steps - 1, 0))
    warm = config.lr * step / warmup if step <= warmup else config.lr
    floor = config.lr * config.min_lr_ratio
    if config.schedule == "eden":
        epoch = step / steps_per_epoch
        fall = _eden(step / config.eden_steps) * _eden(epoch / config.eden_epochs)
        return warm * max(config.min_lr_ratio, fall)
    if step <= warmup or config.schedule == "constant":
        return warm
    if config.schedule == "noam":
        # without a warm-up the peak is at step 1
        return max(floor, config.lr * math.sqrt(max(warmup, 1) / step))
    if config.schedule == "constant_decay":
        start = max(warmup, round((1.0 - config.decay_share) * total_steps))
        return config.lr + (floor - config.lr) * _done(step, start, total_steps)
    done = _done(step, warmup, total_steps)
    return floor + (config.lr - floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def _done(step: int, start: int, end: int) -> float:
    """Share of the way from ``start`` to ``end``, 0 to 1."""
    return min(1.0, max(0.0, (step - start) / max(end - start, 1)))


def _eden(x: float) -> float:
    return float((1.0 + x * x) ** -0.25)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, times the group's own ``lr_scale`` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a saved state; how the update is computed (fused or not) stays this machine's choice."""
    own = [
        {k: v for k, v in group.items() if k in ("fused", "foreach", "capturable")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(saved)
    for group, choice in zip(optimizer.param_groups, own, strict=True):
        group.update(choice)


@contextlib.contextmanager
def swapped_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other weights into ``model`` for the time of the block."""
    # cloned, since state_dict gives the live tensors, which loading overwrites
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(parts(weights, own))
    try:
        yield
    finally:
        # a stop during validation saves the model next, which must be its own weights then
        model.load_state_dict(own)


class RunningAverage:
    """Exponential moving average of a model's floating-point weights, in float32.

    The decay rises as (1 + n) / (10 + n) up to ``decay``, so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights after optimiser step ``step`` (from 1)."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, value in model.state_dict().items():
            average = self.weights[name]
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), 1.0 - decay)
            else:
                # whole numbers, such as the batch count of batch normalisation, have no average
                average.copy_(value)


@dataclass
class LossScale:
    """Dynamic loss scale for float16: halved when gradients overflow, doubled after calm steps.

    Micikevicius et al. 2018. A scale of 1 that never moves serves float32 and bfloat16.
    """

    scale: float = 1.0
    good_steps: int = 0
    dynamic: bool = False
    growth_interval: int = 2000

    def update(self, overflow: bool) -> None:
        """Take note of one step."""
        if not self.dynamic:
            return
        if overflow:
            self.scale, self.good_steps = max(self.scale / 2.0, 2.0**-14), 0
            return
        self.good_steps += 1
        if self.good_steps >= self.growth_interval:
            self.scale, self.good_steps = min(self.scale * 2.0, 2.0**24), 0


class FlatGradients:
    """All gradients of a model as views into one vector, with room for sums at its end.

    One collective then averages gradients and carries every count, and norm, clipping and
    clearing are one operation each.

    Args:
        parameters: trained parameters, all on one device, float32.
        extra: float32 values at the end of the vector that belong to the caller.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], extra: int) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        sizes = [p.numel() for p in self.parameters]
        device = self.parameters[0].device
        self.buffer = torch.zeros(sum(sizes) + extra, dtype=torch.float32, device=device)
        self.gradients = self.buffer[: sum(sizes)]
        self.extra = self.buffer[sum(sizes) :]
        self._views = [
            part.view_as(p)
            for part, p in zip(self.gradients.split(sizes), self.parameters, strict=True)
        ]
        self.zero()

    def zero(self) -> None:
        """Clear gradients and sums, and tie the gradients to the vector again."""
        self.buffer.zero_()
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view

    def finish(self, divisor: float, clip_norm: float) -> float:
        """Divide by ``divisor``, clip to ``clip_norm`` (0: never) and return the norm before clipping."""
        # the norm of the mean: clip_norm means the same for any loss scale and number of frames
        norm = float(torch.linalg.vector_norm(self.gradients)) / divisor
        factor = 1.0 / divisor
        if clip_norm > 0 and norm > clip_norm:
            factor *= clip_norm / norm
        if math.isfinite(norm):
            self.gradients.mul_(factor)
        return norm


def bad_gradients(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradient has an infinite or undefined value."""
    named = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return [name for name, gradient in named if not bool(torch.isfinite(gradient).all())]


def count_parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
