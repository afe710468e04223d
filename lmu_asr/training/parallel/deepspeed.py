"""DeepSpeed, an extra, through its public interface: ``deepspeed.initialize`` and what it returns.

``train.strategy=deepspeed``: the engine runs backward passes, clips and updates, as the user's JSON
says (``train.deepspeed_config``): ZeRO stages 0 to 3 (Rajbhandari et al. 2020), offloading. A pass is
a collective, as in :mod:`lmu_asr.training.parallel.fsdp`. Frames of the global batch are counted before
the first pass, since the engine takes losses that are ready to be differentiated. A step that must not
count ends in an undefined loss, which the engine skips in all processes. Checkpoints hold whole tensors, as
``ddp`` writes them: a run may go on with another strategy.

Shapes: N batch, T frames, F features, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lmu_asr.config import TrainConfig
from lmu_asr.errors import ConfigError, TrainingError
from lmu_asr.files import read_json
from lmu_asr.training.loop.optim import FlatGradients, build_optimizer
from lmu_asr.training.loop.step import SLOTS, GradientStep, StepSums, TrainBatch
from lmu_asr.training.parallel.fsdp import ShardedGradients, ShardedStep
from lmu_asr.training.parallel.processes import World
from lmu_asr.training.parallel.strategy import Strategy

MOMENTS = "exp_avg", "exp_avg_sq"
# what the trainer decides, and the option that says it
OURS = {
    "optimizer": "train.optimizer",
    "scheduler": "train.schedule",
    "gradient_clipping": "train.clip_norm",
    "train_batch_size": "train.max_duration",
    "train_micro_batch_size_per_gpu": "train.frame_limit",
    "gradient_accumulation_steps": "train.accumulate",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "torch_autocast": "train.precision",
}
DEFAULT = {"zero_optimization": {"stage": 2, "overlap_comm": False}}


def load_deepspeed(world: World) -> Any:
    """Import DeepSpeed for the device of ``world``, as quiet as it can be.

    Raises:
        TrainingError: it is not installed, or does not work here.
    """
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)
    try:
        import deepspeed
    except (ImportError, OSError, RuntimeError) as error:
        raise TrainingError(
            f"train.strategy=deepspeed needs the package deepspeed ({error}): "
            "./utils/setup.sh --with-extras, or take train.strategy=zero2 or fsdp"
        ) from error
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # on a CPU it would compile collectives of its own at run time; gloo's need no compiler
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def engine_options(config: TrainConfig, processes: int) -> dict[str, Any]:
    """The user's JSON, or ZeRO-2 where none is named, with what the trainer decides.

    Raises:
        ConfigError: it cannot be read, or has a key that an option of ours decides.
    """
    path = config.deepspeed_config
    asked = read_json(Path(path)) if path else DEFAULT
    if not isinstance(asked, dict):
        raise ConfigError(f"{path}: want an object of DeepSpeed's options")
    for key in OURS.keys() & asked.keys():
        raise ConfigError(f"{path}: '{key}' is what {OURS[key]} decides: leave it out")
    if config.precision == "fp16":
        raise ConfigError(
            "train.precision=fp16: its loss scale cannot be told to train.strategy=deepspeed: take "
            "train.precision=bf16, or train.strategy=zero2"
        )
    zero = asked.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ConfigError(f"{path}: 'zero_optimization': want an object, got {zero!r}")
    if zero.get("stage", 0) == 3 and config.ema > 0:
        raise ConfigError(
            f"{path}: stage 3 has no whole weights for train.ema={config.ema} to follow: set "
            "train.ema=0, or take train.strategy=fsdp"
        )
    return {
        "steps_per_print": None,
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **asked,
        "train_micro_batch_size_per_gpu": 1,  # utterances are counted by the trainer
        "gradient_accumulation_steps": 1,
        "train_batch_size": processes,
        "gradient_clipping": config.clip_norm,
    }


class Autocast(nn.Module):
    """Computes as the caller's autocast says, which DeepSpeed's engine turns off."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.head = model, model.head
        self.precision: torch.dtype | None = None

    def forward(self, features: Tensor, *arguments: Any) -> Any:
        """As the model's own."""
        kind = features.device.type
        with torch.autocast(kind, self.precision, enabled=self.precision is not None):
            return self.model(features, *arguments)


class EngineOptimizer:
    """The optimiser as the trainer sees it: groups and states of whole parameters.

    Args:
        engine: DeepSpeed's engine.
        groups: groups of the model's own parameters.
    """

    def __init__(self, engine: Any, groups: list[dict[str, Any]]) -> None:
        self.engine, self.param_groups = engine, groups
        self.stage = int(engine.zero_optimization_stage())
        self.first_pass: Callable[[], None] | None = None  # forward and backward of nothing

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """State of this process's parts of the parameters."""
        return cast("dict[Tensor, dict[str, Tensor]]", self.engine.optimizer.state)

    def parameters(self) -> list[nn.Parameter]:
        """The model's own, in the order of groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def step(self) -> None:
        """Nothing: the engine has stepped when it told the norm of the gradients."""

    def step_engine(self, lr: float | None = None) -> None:
        """Clip and update, at ``lr`` in place of the learning rates of the groups if given."""
        for theirs, own in zip(self.engine.optimizer.param_groups, self.param_groups, strict=True):
            theirs["lr"] = own["lr"] if lr is None else lr
        self.engine.step()

    def begin(self) -> None:
        """Take, once, a step that changes nothing: before it DeepSpeed has no state to tell or to set."""
        if self.first_pass is None or self.stage == 0:
            return
        for group in self.engine.optimizer.param_groups:
            # parameters find their states after the first group's update: those of all must be there
            for flat in group["params"]:
                zeros = {name: torch.zeros_like(flat) for name in MOMENTS}
                self.state[flat] = {"step": torch.zeros(()), **zeros}
        self.first_pass()
        self.first_pass = None
        self.step_engine(lr=0.0)
        self.set_steps(torch.zeros(()))

    def set_steps(self, steps: Tensor) -> None:
        """Set the number of updates so far, which corrects the moments' bias."""
        for state in self.state.values():
            state["step"] = steps.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """States of whole parameters, as the optimiser itself would give them; a collective."""
        if self.stage == 0:
            return cast("dict[str, Any]", self.engine.optimizer.state_dict())
        from deepspeed.utils import safe_get_full_optimizer_state

        self.begin()
        steps = next(iter(self.state.values()))["step"]
        states, groups, index = {}, [], 0
        for group in self.param_groups:
            numbers = list(range(index, index + len(group["params"])))
            for index, parameter in zip(numbers, group["params"], strict=True):
                moments = {n: safe_get_full_optimizer_state(parameter, n).cpu() for n in MOMENTS}
                states[index] = {"step": steps.clone(), **moments}
            index += 1
            groups.append({**group, "params": numbers})
        return {"state": states if steps > 0 else {}, "param_groups": groups}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take this process's parts of whole states, and the model's weights as they are now.

        Raises:
            ValueError: other groups than those of this model.
        """
        theirs = [len(group["params"]) for group in saved["param_groups"]]
        ours = [len(group["params"]) for group in self.param_groups]
        if theirs != ours:
            raise ValueError(f"groups of {theirs} parameters, this model has {ours}")
        if self.stage == 0:
            self.engine.optimizer.load_state_dict(saved)
            return
        from deepspeed.utils import safe_set_full_fp32_param

        if self.stage < 3:
            for parameter in self.parameters():
                safe_set_full_fp32_param(parameter, parameter.detach())
        self.begin()
        for own, group in zip(self.param_groups, saved["param_groups"], strict=True):
            own.update({k: v for k, v in group.items() if k != "params"})
        for index, parameter in enumerate(self.parameters()):
            state = saved["state"].get(index)  # None: saved before the first update
            for name in MOMENTS if state else ():
                self._set_state(parameter, state[name].to(parameter.device), name)
        if saved["state"]:
            self.set_steps(saved["state"][0]["step"])

    def _set_state(self, parameter: nn.Parameter, value: Tensor, name: str) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.stage < 3:
            safe_set_full_optimizer_state(parameter, value, name)
        else:
            safe_set_local_optimizer_state(parameter, own_part(parameter, value), name)


def own_part(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """This process's part of a whole value, flat and padded as ZeRO-3 has it."""
    from deepspeed.utils import safe_get_local_fp32_param

    size = safe_get_local_fp32_param(parameter).numel()
    start = torch.distributed.get_rank() * size
    part = value.flatten()[start : start + size]
    return nn.functional.pad(part, (0, size - part.numel()))


class EngineGradients(ShardedGradients):
    """Gradients that the engine holds: its step divides no more, clips, and tells their norm."""

    optimizer: EngineOptimizer

    def finish(self, divisor: float, clip_norm: float) -> float:
        """Step the engine; returns the norm before clipping, infinite where the step was skipped.

        Losses were divided, and ``clip_norm`` is in the engine's configuration.
        """
        engine = self.optimizer.engine
        if self.optimizer.stage == 0 and not math.isfinite(norm := self._norm()):
            engine.zero_grad()  # without ZeRO the engine looks at no gradient
            return norm
        self.optimizer.step_engine()
        if not engine.was_step_applied():
            return math.inf
        return norm if self.optimizer.stage == 0 else float(engine.get_global_grad_norm())

    def _norm(self) -> float:
        norms = [torch.linalg.vector_norm(p.grad) for p in self.parameters if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    def zero(self) -> None:
        """Clear the sums; the engine clears gradients when it steps."""
        self.buffer.zero_()


class EngineStep(ShardedStep):
    """A step whose backward passes the engine drives."""

    def __init__(self, engine: Any, optimizer: EngineOptimizer, *arguments: Any) -> None:
        self.engine = engine
        super().__init__(engine, *arguments)
        cast(EngineGradients, self.flat).optimizer = optimizer
        optimizer.first_pass = self._first_pass

    def _make_gradients(self) -> FlatGradients:
        return EngineGradients(self.model.parameters(), SLOTS, self.world)

    def run(
        self, batches: Sequence[TrainBatch], scale: float, save: bool = False, stop: bool = False
    ) -> StepSums:
        """As of :class:`GradientStep`; the gradients are divided by the frames of the global batch."""
        cast(EngineGradients, self.flat).optimizer.begin()
        lens = [self.engine.module.model.output_lens(batch.feature_lens) for batch in batches]
        own = torch.tensor(float(sum(int(each.sum()) for each in lens)))
        frames = float(self.world.all_reduce(own.to(self.world.device)))
        self.skip = frames == 0
        # the engine leaves means over processes
        return super().run(batches, scale * self.world.world_size / max(frames, 1.0), save, stop)

    def _backward(self, part: TrainBatch, scale: float) -> None:
        self._begin_pass()
        super()._backward(part, scale)

    def _empty_pass(self) -> None:
        self._begin_pass()
        super()._empty_pass()

    def _begin_pass(self) -> None:
        self.left -= 1
        self.engine.module.precision = self.precision
        self.engine.set_gradient_accumulation_boundary(self.left == 0)

    def _differentiate(self, loss: Tensor) -> None:
        self.skip |= not bool(torch.isfinite(loss))
        if self.left == 0 and self.world.any(self.skip):
            loss = loss * math.nan  # what all engines skip
        self.engine.backward(loss, scale_wrt_gas=False)

    def _first_pass(self) -> None:
        training = self.engine.training
        self.engine.eval()  # batch normalisation takes no note of it
        self.left, self.skip = 1, False
        self._empty_pass()
        self.engine.train(training)


class DeepSpeed(Strategy):
    """``train.strategy=deepspeed``.

    Raises:
        TrainingError: DeepSpeed is not installed.
        ConfigError: its configuration does not fit.
    """

    def place(self, model: nn.Module, world: World) -> nn.Module:
        self.deepspeed = load_deepspeed(world)
        self.world = world
        return super().place(model, world)

    def optimizer(self, model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        options = engine_options(config, self.world.world_size)
        base = build_optimizer(model, config)
        groups = [{**group, "params": list(group["params"])} for group in base.param_groups]
        try:
            self.engine = self.deepspeed.initialize(
                model=Autocast(model), optimizer=base, config=options
            )[0]
        except (ValueError, KeyError, TypeError, AssertionError, RuntimeError) as error:
            raise ConfigError(
                f"train.deepspeed_config={config.deepspeed_config}: DeepSpeed refuses it: {error}"
            ) from error
        self.states = EngineOptimizer(self.engine, groups)
        if self.states.stage == 3:
            tell_whole_weights(model, self.deepspeed.zero.GatheredParameters)
        return cast(torch.optim.Optimizer, self.states)

    def step(self, model: nn.Module, *arguments: Any) -> GradientStep:
        """See :meth:`Strategy.step`."""
        return EngineStep(self.engine, self.states, *arguments)


def tell_whole_weights(model: nn.Module, gathered: Callable[..., Any]) -> None:
    """Let ``state_dict`` gather weights that lie in parts (ZeRO-3), and ``load_state_dict`` cut them.

    One weight is gathered at a time. Both are collectives; the dictionaries are on the CPU.
    """
    from deepspeed.utils import safe_set_local_fp32_param

    def gather(module: nn.Module, values: dict[str, Any], prefix: str, _: Any) -> None:
        for name, parameter in module.named_parameters(prefix.rstrip(".")):
            if name in values:
                with gathered([parameter]):
                    values[name] = parameter.detach().cpu().clone()

    def cut(values: dict[str, Any], prefix: str, *_: Any) -> None:
        for name, parameter in model.named_parameters(prefix.rstrip(".")):
            if name in values:
                value = values[name].to(parameter.device)
                with gathered([parameter], modifier_rank=0), torch.no_grad():
                    parameter.copy_(value)
                safe_set_local_fp32_param(parameter, own_part(parameter, value))
                values[name] = parameter.detach()

    model._register_state_dict_hook(gather)
    model._register_load_state_dict_pre_hook(cut)
