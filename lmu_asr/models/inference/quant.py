"""Weights laid out for streaming on the CPU, in float32 or in int8.

A short chunk is bound by reading the weights. Packed, they are read once and in order; in int8 they
are a quarter of the bytes. Each int8 output has its own scale (symmetric, largest magnitude at 127);
inputs, products and state stay float32, so that the only error is that of the stored weights.

Legend: K inputs, N outputs of a linear layer.
"""

from __future__ import annotations

import copy
import logging
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmu_asr.errors import ModelError
from lmu_asr.models.inference.streaming_block import StreamingBlock
from lmu_asr.models.inference.streaming_block import fits as streaming_fits
from lmu_asr.models.memory.kernels import elementwise

TILE = 64  # outputs that lie together in the packed weight
Model = TypeVar("Model", bound=nn.Module)


class Int8Linear(nn.Module):
    """A linear layer with its weight in int8, packed as (ceil(N / 64), K, 64). Inference only."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Quantise ``linear``, which stays as it is."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        wide = linear.weight.detach().float().cpu()
        # clamped, since a row of zeros would divide by zero
        scale = (wide.abs().amax(dim=1) / 127.0).clamp(min=1e-12)
        self.register_buffer("weight", pack(torch.round(wide / scale[:, None]).to(torch.int8)))
        self.register_buffer("scale", scale)
        bias = None if linear.bias is None else linear.bias.detach().float().cpu().clone()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., K) float32 on the CPU to (..., N).

        Raises:
            ModelError: another type or device.
        """
        _check_input(x, "int8")
        native = elementwise.library()
        if native is None:
            return F.linear(x, self.dequantized(), self.bias)
        x = x.contiguous()
        y = torch.empty(*x.shape[:-1], self.out_features)
        native.int8_linear(
            x.data_ptr(),
            self.weight.data_ptr(),
            self.scale.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            y.data_ptr(),
            y.numel() // self.out_features,
            self.in_features,
            self.out_features,
        )
        return y

    def dequantized(self) -> Tensor:
        """Return the weight (N, K) that the stored integers stand for, float32."""
        return unpack(self.weight, self.out_features).float() * self.scale[:, None]


class PackedLinear(nn.Module):
    """A linear layer with its float32 weight packed as (ceil(N / 64), K, 64). Inference only."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weight of ``linear``, which stays as it is."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", pack(linear.weight.detach().float().cpu()))
        bias = None if linear.bias is None else linear.bias.detach().float().cpu().clone()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., K) float32 on the CPU to (..., N).

        Raises:
            ModelError: another type or device.
        """
        _check_input(x, "packed")
        native = elementwise.library()
        if native is None:
            return F.linear(x, unpack(self.weight, self.out_features), self.bias)
        x = x.contiguous()
        y = torch.empty(*x.shape[:-1], self.out_features)
        native.float_linear(
            x.data_ptr(),
            self.weight.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            y.data_ptr(),
            y.numel() // self.out_features,
            self.in_features,
            self.out_features,
        )
        return y


def pack(weight: Tensor) -> Tensor:
    """Lay a weight (N, K) out as (ceil(N / 64), K, 64), zeros where outputs end."""
    missing = -weight.shape[0] % TILE
    rows = F.pad(weight, (0, 0, 0, missing)).reshape(-1, TILE, weight.shape[1])
    return rows.transpose(1, 2).contiguous()


def unpack(packed: Tensor, outputs: int) -> Tensor:
    """Return the weight (N, K) of ``outputs`` rows that was packed."""
    return packed.transpose(1, 2).reshape(-1, packed.shape[1])[:outputs]


def quantize(model: Model) -> Model:
    """Return a copy of ``model`` on the CPU, for evaluation, with every linear layer in int8.

    Recurrent kernels (LSTM, the published LMU cell), attention and memories keep float32.
    """
    return _converted(model, Int8Linear)


def pack_for_streaming(model: Model) -> Model:
    """Return a copy of ``model`` on the CPU, for evaluation, with packed float32 weights."""
    return _converted(model, PackedLinear)


def is_quantized(model: nn.Module) -> bool:
    """Whether ``model`` has int8 weights."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def _converted(model: Model, layer: type[Int8Linear] | type[PackedLinear]) -> Model:
    if elementwise.library() is None:
        logging.warning("packed weights without the compiled kernel: same results, but slower")
    converted = copy.deepcopy(model).cpu().eval()
    _replace(converted, layer)
    return converted


def _replace(module: nn.Module, layer: type[Int8Linear] | type[PackedLinear]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.TransformerEncoderLayer):
            continue  # torch reads its weights without calling its linear layers
        if isinstance(child, nn.Linear):
            setattr(module, name, layer(child))
        else:
            _replace(child, layer)
            # after its linear layers are packed, since the compiled step reads packed weights
            if streaming_fits(child):
                setattr(module, name, StreamingBlock(child))


def _check_input(x: Tensor, what: str) -> None:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise ModelError(f"{what} weights want float32 on the cpu; got {x.dtype} on {x.device}")
