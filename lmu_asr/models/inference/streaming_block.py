"""A causal speech block as a stream in one compiled call a chunk.

Legend: N streams, T frames, D model width, C memory channels, G groups of one theta, Q order.
"""

from __future__ import annotations

import ctypes
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from lmu_asr.models.blocks import Block
from lmu_asr.models.gated_lmu import GatedLmu
from lmu_asr.models.layers import SwiGLU
from lmu_asr.models.memory.kernels import elementwise
from lmu_asr.models.mixers import State

MAX_ORDER = 1024
_SIZES = ("D", "C", "G", "Q", "H", "width")
_POINTERS = (
    "norm", "ff_norm", "kernel", "change", "inject", "readout", "skip", "value", "value_scale",
    "gate", "gate_scale", "output", "output_scale", "w1", "w1_scale", "w2", "w2_scale",
)  # fmt: skip


class _BlockStruct(ctypes.Structure):
    """``Block`` of elementwise.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_long) for name in _SIZES),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


class StreamingBlock(Block):
    """A :class:`Block` with packed products whose :meth:`step` is one compiled call.

    Offline it runs as the block it was made from.
    """

    def __init__(self, block: Block) -> None:
        """Take over the parts of ``block``, whose linear layers are packed already."""
        nn.Module.__init__(self)
        self.mixer_norm, self.mixer = block.mixer_norm, block.mixer
        self.ff_norm, self.ff, self.residual = block.ff_norm, block.ff, block.residual
        self._prepared: tuple[_BlockStruct, list[Tensor], int] | None = None

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Block.step`."""
        native = elementwise.library()
        if native is None or x.dtype != torch.float32 or x.device.type != "cpu":
            return super().step(x, state)
        if self._prepared is None:
            self._prepared = self._prepare()
        struct, _, floats = self._prepared
        (memory, before, gates, drop), waiting = state
        N, T, _ = x.shape
        # cloned, since the kernel writes into them and step leaves its input state as it was
        x, memory, before = x.contiguous(), memory.clone(), before.clone()
        y, work = torch.empty_like(x), torch.empty(N * T * floats)
        tensors = (x, y, memory, before, work)
        native.block_step(ctypes.byref(struct), *(t.data_ptr() for t in tensors), N, T)
        return y, ((memory, before, gates, drop), waiting)

    @torch.no_grad()
    def _prepare(self) -> tuple[_BlockStruct, list[Tensor], int]:
        """Return the C struct, the tensors that it points to, and floats of work a frame."""
        mixer, ff = self.mixer, self.ff
        if not isinstance(mixer, GatedLmu):
            raise TypeError(f"a streaming block wants a GatedLmu, got {type(mixer).__name__}")
        Ad, Bd = mixer.memory.system()
        eye = torch.eye(Ad.shape[-1], dtype=Ad.dtype)
        tensors: dict[str, Tensor | None] = {
            "norm": self.mixer_norm.weight,
            # minus identity in float64: in float32 a long theta would be rounded to another
            "change": (Ad - eye).transpose(1, 2).float().contiguous(),
            "inject": Bd.float().contiguous(),
            "readout": mixer.memory.readout,
            "skip": mixer.memory.skip,
            **_products(mixer, ("value", "gate", "output")),
        }
        sizes = {"D": mixer.dim, "C": mixer.channels, "G": Bd.shape[0], "Q": Bd.shape[1]}
        hidden = 0
        if self.ff_norm is not None and isinstance(ff, SwiGLU):
            hidden = ff.w2.in_features
            tensors.update(_products(ff, ("w1", "w2")), ff_norm=self.ff_norm.weight)
        width = 1
        if mixer.conv is not None:
            width = mixer.conv.kernel
            tensors["kernel"] = mixer.conv.weight[:, 0].t().contiguous()  # (width, C)
        struct = _BlockStruct(**sizes, H=hidden, width=width, eps=self.mixer_norm.eps)
        kept = []
        for name, tensor in tensors.items():
            if tensor is not None:
                # the struct holds bare pointers: this list keeps their memory alive
                kept.append(tensor)
                setattr(struct, name, tensor.data_ptr())
        return struct, kept, 2 * mixer.dim + 4 * mixer.channels + 3 * hidden + 1

    def __getstate__(self) -> dict[str, Any]:
        """Copies find their own pointers."""
        return {**self.__dict__, "_prepared": None}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._prepared = None
        return super()._apply(fn)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._prepared = None
        super()._load_from_state_dict(*args, **kwargs)


def fits(block: nn.Module) -> TypeGuard[Block]:
    """Whether the compiled step can run ``block``: a causal LMU block that does not look ahead."""
    if not isinstance(block, Block) or not isinstance(block.mixer, GatedLmu):
        return False
    mixer = block.mixer
    plain = mixer.back is None and mixer.lookahead == 0 and mixer.memory.order <= MAX_ORDER
    return plain and mixer.memory.readout is not None and mixer.memory.skip is not None


def _products(module: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor | None]:
    found: dict[str, Tensor | None] = {}
    for name in names:
        layer = getattr(module, name)
        found[name], found[f"{name}_scale"] = layer.weight, getattr(layer, "scale", None)
    return found
