"""Models that one device does not hold: parameters, gradients and optimiser state in shards.

``train.strategy=fsdp`` gives every process a part of each parameter (FSDP2, Zhao et al. 2023; as
ZeRO-3, Rajbhandari et al. 2020). A layer is gathered for as long as it computes; with ``zero2`` from its
forward to its backward pass, which takes more memory and half the gathering. Gathering is a
collective, so all processes run the same number of passes; one with fewer chunks runs empty ones.
Gradients, and so the losses, are those of ``ddp`` up to rounding. Checkpoints hold whole tensors:
a run may go on with another strategy.

Shapes: N batch, T frames, F features, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lmu_asr.errors import TrainingError
from lmu_asr.torch_versions import has_fully_shard
from lmu_asr.training.loop.optim import FlatGradients
from lmu_asr.training.loop.step import SLOTS, GradientStep, TrainBatch
from lmu_asr.training.parallel.processes import World
from lmu_asr.training.parallel.strategy import Strategy

EMPTY_FRAMES = 100  # of a pass that only keeps step with the others


def shard(model: nn.Module, world: World, again: bool = True) -> nn.Module:
    """Split the parameters of ``model`` over all processes, layer by layer, and move it to the device.

    Each item of an outermost ``nn.ModuleList`` (the blocks of an encoder) is gathered on its own,
    everything else together. The model has the same weights in every process before.

    Args:
        model: on the CPU or the device.
        world: the processes of the run.
        again: whether a layer is split again after its forward pass (ZeRO-3) or kept (ZeRO-2).

    Raises:
        TrainingError: torch is older than 2.7.
    """
    if not has_fully_shard():
        raise TrainingError(
            f"train.strategy=fsdp or zero2 needs torch 2.7 or later, this is {torch.__version__}: "
            "take train.strategy=ddp"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.world_size,))
    # inner modules first: the outer call takes the parameters that none of them has
    for layer in blocks(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=again)
    fully_shard(model, mesh=mesh, reshard_after_forward=None if again else False)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """Items of the outermost module lists that have parameters."""
    if isinstance(model, nn.ModuleList):
        return [item for item in model if next(item.parameters(), None) is not None]
    return [block for child in model.children() for block in blocks(child)]


class ShardedGradients(FlatGradients):
    """Norm and clipping of gradients that lie in shards; the vector holds the caller's sums alone.

    Args:
        parameters: sharded parameters.
        extra: float32 values that belong to the caller and are summed over processes.
        world: the processes of the run.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], extra: int, world: World) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.buffer = self.extra = torch.zeros(extra, dtype=torch.float32, device=world.device)
        self.gradients = self.buffer[:0]
        self.world = world

    def zero(self) -> None:
        """Clear gradients and sums."""
        self.buffer.zero_()
        for parameter in self.parameters:
            # FSDP makes the sharded gradients itself, so there is no vector to be a view of
            parameter.grad = None

    def parts(self) -> list[Tensor]:
        """This process's parts of the gradients."""
        return [p.grad.to_local() for p in self.parameters if p.grad is not None]  # type: ignore[attr-defined]

    def finish(self, divisor: float, clip_norm: float) -> float:
        """Divide by ``divisor``, clip to ``clip_norm`` (0: never) and return the norm before clipping.

        The backward passes leave means over processes, hence sums over ``world_size``.
        """
        divisor /= self.world.world_size
        own = self.parts()
        # float64, since the square of a large norm is infinite in float32
        square = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for gradient in own:
            square += torch.linalg.vector_norm(gradient).double().square()
        norm = math.sqrt(float(self.world.all_reduce(square))) / divisor
        factor = 1.0 / divisor
        if clip_norm > 0 and norm > clip_norm:
            factor *= clip_norm / norm
        if math.isfinite(norm):
            for gradient in own:
                gradient.mul_(factor)
        return norm


class ShardedStep(GradientStep):
    """A step whose passes are collectives: the same number of them in every process, no retries."""

    together = True
    left = 0  # passes to come in this step

    def _make_gradients(self) -> FlatGradients:
        return ShardedGradients(self.model.parameters(), SLOTS, self.world)

    def _local(self, batches: Sequence[TrainBatch], scale: float) -> tuple[int, bool]:
        """Gradients of all processes.

        Raises:
            TrainingError: memory ran out; the others cannot wait for a retry.
        """
        problem = self._try(batches, self.frame_limit, scale)
        if problem is not None:
            raise TrainingError(
                f"rank {self.world.rank}: out of memory ({problem}); sharded parameters know no "
                f"retry: set train.frame_limit (now {self.limits[-1][1] if self.limits else 'none'}) or lower "
                "train.max_duration"
            )
        return 0, False

    def _passes(self, batches: Sequence[TrainBatch], limit: int | None, scale: float) -> None:
        own = sum(1 for batch in batches for _ in self._parts(batch, limit))
        self.left = most = self.world.maximum(own)
        super()._passes(batches, limit, scale)
        for _ in range(most - own):
            self._empty_pass()

    def _empty_pass(self) -> None:
        """Forward and backward of one silent utterance that counts nothing."""
        device = self.world.device
        features = torch.zeros(1, EMPTY_FRAMES, self.bins, device=device)  # (1, T, F)
        lens = torch.tensor([EMPTY_FRAMES], device=device)
        with torch.autocast(device.type, self.precision, enabled=self.precision is not None):
            outputs: Tensor = self.model(features, lens)[0]  # (1, T', S)
        # the gradient is 0, but the pass takes part in reducing those of the others
        self._differentiate(outputs.sum() * 0.0)


class Fsdp(Strategy):
    """``train.strategy=fsdp``."""

    gradient_step = ShardedStep
    again = True

    def place(self, model: nn.Module, world: World) -> nn.Module:
        return shard(model, world, self.again)


class Zero2(Fsdp):
    """``train.strategy=zero2``: layers stay whole between their forward and backward passes."""

    again = False
