"""Weights in int8 for streaming on the CPU: a quarter of the bytes that each chunk must read.

Each output has its own scale (symmetric, largest magnitude at 127); inputs, products and state stay
float32, so that the only error is that of the stored weights.

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
from lmu_asr.models.native import fused

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
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise ModelError(f"int8 weights want float32 on the cpu; got {x.dtype} on {x.device}")
        native = fused.library()
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
        rows = self.weight.transpose(1, 2).reshape(-1, self.in_features)[: self.out_features]
        return rows.float() * self.scale[:, None]


def pack(weight: Tensor) -> Tensor:
    """Lay an int8 weight (N, K) out as (ceil(N / 64), K, 64), zeros where outputs end."""
    missing = -weight.shape[0] % TILE
    rows = F.pad(weight, (0, 0, 0, missing)).reshape(-1, TILE, weight.shape[1])
    return rows.transpose(1, 2).contiguous()


def quantize(model: Model) -> Model:
    """Return a copy of ``model`` on the CPU, for evaluation, with every linear layer in int8.

    Recurrent kernels (LSTM, the published LMU cell) and memories keep float32.
    """
    if fused.library() is None:
        logging.warning("int8 weights without the compiled kernel: same results, but slower")
    quantized = copy.deepcopy(model).cpu().eval()
    _replace(quantized)
    return quantized


def is_quantized(model: nn.Module) -> bool:
    """Whether ``model`` has int8 weights."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.MultiheadAttention):
            continue  # reads the weight of its output layer by itself
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            _replace(child)
