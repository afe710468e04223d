"""ZeRO by DeepSpeed, an extra: the whole model in each process, gradients and optimiser state in parts.

``train.strategy=deepspeed`` is ZeRO-2 (Rajbhandari et al. 2020). Nothing is gathered while a layer
computes; after the update each process sends its part of the weights to the others. A backward
pass is a collective, as in :mod:`lmu_asr.training.parallel.fsdp`. Checkpoints hold the optimiser state
parameter by parameter, as ``ddp`` writes it: a run may go on with another strategy.

Shapes: N batch, T frames, F features, V vocabulary.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lmu_asr.config import TrainConfig
from lmu_asr.errors import TrainingError
from lmu_asr.training.loop.optim import FlatGradients, build_optimizer
from lmu_asr.training.loop.step import SLOTS, TrainBatch
from lmu_asr.training.parallel.fsdp import ShardedGradients, ShardedStep
from lmu_asr.training.parallel.processes import World
from lmu_asr.training.parallel.strategy import Strategy

MOMENTS = "exp_avg", "exp_avg_sq"
BUCKET = 50_000_000  # gradients that travel together at the most; DeepSpeed wants it even


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
            "./utils/setup.sh --with-extras, or take train.strategy=fsdp"
        ) from error
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # on a CPU it would compile collectives of its own at run time; gloo's need no compiler
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def options(processes: int, bucket: int) -> dict[str, Any]:
    """DeepSpeed's configuration; the trainer scales, clips and counts by itself."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": processes,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
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


class ZeroOptimizer:
    """The optimiser as the trainer sees it: groups and states of whole parameters.

    Args:
        engine: DeepSpeed's engine.
        groups: groups of the model's own parameters.
    """

    def __init__(self, engine: Any, groups: list[dict[str, Any]]) -> None:
        self.engine, self.param_groups = engine, groups
        # DeepSpeed joins the parameters of a group into one vector, this process's part of it
        self.flat = [group["params"][0] for group in engine.optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """State of this process's parts, one a group."""
        return cast("dict[Tensor, dict[str, Tensor]]", self.engine.optimizer.optimizer.state)

    def step(self) -> None:
        """Update this process's parts and send them to the others."""
        for ours, own in zip(self.engine.optimizer.param_groups, self.param_groups, strict=True):
            # DeepSpeed has groups of its own; the trainer sets the rates of ours
            ours["lr"] = own["lr"]
        self.engine.step()

    def state_dict(self) -> dict[str, Any]:
        """States of whole parameters, as the optimiser itself would give them; a collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        states: dict[int, dict[str, Tensor]] = {}
        groups, index = [], 0
        for flat, group in zip(self.flat, self.param_groups, strict=True):
            first, own = index, self.state.get(flat)
            if own:
                self._link(flat, group["params"])
            for parameter in group["params"]:
                if own:
                    states[index] = {"step": own["step"].clone()} | {
                        name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS
                    }
                index += 1
            groups.append({**group, "params": list(range(first, index))})
        return {"state": states, "param_groups": groups}

    def _link(self, flat: Tensor, parameters: list[nn.Parameter]) -> None:
        """Let each parameter know its part of the states; DeepSpeed does so for the first group alone."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        lazy_init_hp_params_optimizer_state(parameters, flat, self.state)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take this process's parts of whole states, and the model's weights as they are now.

        Raises:
            ValueError: other groups than those of this model.
        """
        theirs = [len(group["params"]) for group in saved["param_groups"]]
        ours = [len(group["params"]) for group in self.param_groups]
        if theirs != ours:
            raise ValueError(f"groups of {theirs} parameters, this model has {ours}")
        index = 0
        for place, (group, entry) in enumerate(
            zip(self.param_groups, saved["param_groups"], strict=True)
        ):
            group.update({k: v for k, v in entry.items() if k != "params"})
            states = [saved["state"].get(index + i) for i in range(len(group["params"]))]
            self._load_group(place, group["params"], states)
            index += len(states)

    def _load_group(
        self, place: int, parameters: list[nn.Parameter], states: list[dict[str, Tensor] | None]
    ) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for parameter in parameters:
            # DeepSpeed updates its own float32 copies, made before the checkpoint was read
            safe_set_full_fp32_param(parameter, parameter.detach())
        flat, first = self.flat[place], states[0]
        if first is None:  # saved before the first update
            return
        # the optimiser makes its states at the first update, which is still to come
        zeros = {name: torch.zeros_like(flat) for name in MOMENTS}
        self.state[flat] = {"step": first["step"].clone().to(flat.device), **zeros}
        self._link(flat, parameters)
        for parameter, state in zip(parameters, states, strict=True):
            for name in MOMENTS:
                value = cast("dict[str, Tensor]", state)[name].to(parameter.device)
                safe_set_full_optimizer_state(parameter, value, name)


class ZeroGradients(ShardedGradients):
    """Norm and clipping of the parts of gradients that DeepSpeed leaves in each process."""

    def __init__(
        self, engine: Any, parameters: Iterable[nn.Parameter], extra: int, world: World
    ) -> None:
        super().__init__(parameters, extra, world)
        self.engine = engine

    def parts(self) -> list[Tensor]:
        """This process's parts; no two of them overlap, in this process or another."""
        groups = self.engine.optimizer.averaged_gradients.values()
        return [part for group in groups if group is not None for part in group]


class ZeroStep(ShardedStep):
    """A step whose backward passes DeepSpeed drives; the last one ends in parts of the summed gradient."""

    def __init__(self, engine: Any, *arguments: Any) -> None:
        self.engine = engine
        super().__init__(engine, *arguments)

    def _make_gradients(self) -> FlatGradients:
        return ZeroGradients(self.engine, self.model.parameters(), SLOTS, self.world)

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
        # the trainer divides by the frames of the step, DeepSpeed must not divide as well
        self.engine.backward(loss, scale_wrt_gas=False)


class Zero(Strategy):
    """``train.strategy=deepspeed``.

    Raises:
        TrainingError: DeepSpeed is not installed.
    """

    gradient_step = ZeroStep

    def place(self, model: nn.Module, world: World) -> nn.Module:
        self.deepspeed = load_deepspeed(world)
        self.world = world
        return super().place(model, world)

    def optimizer(self, model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        whole = sum(p.numel() for p in model.parameters())
        base = build_optimizer(model, config)
        groups = [{**group, "params": list(group["params"])} for group in base.param_groups]
        self.engine = self.deepspeed.initialize(
            model=Autocast(model),
            optimizer=base,
            # no larger than the model, since DeepSpeed takes the memory of a whole bucket
            config=options(self.world.world_size, min(BUCKET, whole + whole % 2)),
        )[0]
        return cast(torch.optim.Optimizer, ZeroOptimizer(self.engine, groups))

    def trained(self, model: nn.Module) -> nn.Module:
        return cast(nn.Module, self.engine)
