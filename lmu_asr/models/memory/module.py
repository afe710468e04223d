"""The Legendre memory: one function, several exact evaluations behind it, and its module.

Legend: N batch, T frames, C channels, G groups of one theta, Q order, D width.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmu_asr.models.memory.kernels.chunked import chunked_memory
from lmu_asr.models.memory.kernels.compiled import available as kernel_available
from lmu_asr.models.memory.kernels.compiled import compiled_memory
from lmu_asr.models.memory.kernels.operators import chunk_operators
from lmu_asr.models.memory.kernels.projection import chunked_projection
from lmu_asr.models.memory.kernels.reference import fft_memory, sequential_memory
from lmu_asr.models.memory.kernels.triton_memory import ORDERS as TRITON_ORDERS
from lmu_asr.models.memory.kernels.triton_memory import available as triton_available
from lmu_asr.models.memory.kernels.triton_memory import triton_memory
from lmu_asr.models.memory.legendre import (
    LmuError,
    UnstableDiscretizationError,
    check_stable,
    delay_readout,
    discretize,
    legendre_system,
    spectral_radius,
)

__all__ = [
    "FORMS",
    "LegendreMemory",
    "LmuError",
    "UnstableDiscretizationError",
    "check_stable",
    "delay_readout",
    "discretize",
    "legendre_memory",
    "legendre_projection",
    "legendre_system",
    "spectral_radius",
]

_log = logging.getLogger(__name__)

FORMS = ("auto", "sequential", "fft", "chunked", "compiled", "triton")
KERNEL_ORDERS = 64
"""Beyond this order the fused kernels round more than the chunked form, and gain nothing."""
FFT_FRAMES = range(64, 10001)
"""Lengths at which a read-out of a higher order than that is fastest by FFT on a CPU."""


def legendre_memory(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    *,
    readout: Tensor | None = None,
    skip: Tensor | None = None,
    state: Tensor | None = None,
    lens: Tensor | None = None,
    form: str = "auto",
    chunk_size: int | None = None,
    product_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate ``m[t] = Ad m[t-1] + Bd u[t]`` for every channel, or a read-out of it.

    Args:
        u: input (N, T, C).
        Ad, Bd: (G, Q, Q) and (G, Q), best in float64; C must be a multiple of G, and channels
            of one group are neighbours.
        readout: None for the memory itself, or (C, Q) for ``sum_q readout[c, q] m[n, t, c, q]``,
            which never forms m.
        skip: (C,), adds ``skip[c] u``; only with a read-out.
        state: (N, C, Q) float32 (float64 for a float64 u), the state before the first frame.
        lens: (N,) frames of each sequence; frames past it are ignored and give zeros.
        form: one of FORMS; "auto" takes what was measured to be fastest for shape and device.
        chunk_size: frames in a chunk, for the forms that have chunks.
        product_dtype: operands of the large products of the chunked form; by default float32 (or
            u's dtype) on a CPU, u's dtype elsewhere. States are float32 at least in any case.

    Returns:
        (N, T, C, Q) or (N, T, C), of u's dtype, and the state (N, C, Q) after each sequence's
        own last frame.

    Raises:
        LmuError: shapes do not fit together, or the form is unknown.
    """
    _check_shapes(u, Ad, Bd, readout, skip, state, lens)
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    if u.shape[1] == 0:
        return _nothing(u, Bd, readout), _begin(u, Bd, state, dtype)
    if product_dtype is None and u.device.type != "cpu":
        product_dtype = u.dtype
    readout = None if readout is None else readout.to(dtype)
    skip = None if skip is None else skip.to(dtype)
    state = None if state is None else state.to(dtype)
    with torch.autocast(u.device.type, enabled=False):
        # autocast would take the state's products in bfloat16, whose errors add up over the frames
        form = _chosen(form, u, Ad, Bd, readout, state)
        chunk = chunk_size or min(16 if u.shape[1] < 128 else 32, u.shape[1])
        y, end = _evaluate(form, u, Ad, Bd, readout, skip, state, lens, dtype, chunk, product_dtype)
    return y.to(u.dtype), end


def _evaluate(
    form: str,
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    readout: Tensor | None,
    skip: Tensor | None,
    state: Tensor | None,
    lens: Tensor | None,
    dtype: torch.dtype,
    chunk: int,
    product_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """Run one form; the arguments are checked and of the dtype that the state has."""
    begin = _begin(u, Bd, state, dtype)
    if form == "compiled" and readout is not None:
        return compiled_memory(u.to(dtype), Ad, Bd, readout, skip, begin, lens)
    if form == "triton" and readout is not None:
        return triton_memory(u, Ad, Bd, readout, skip, begin, lens)
    padding = _padding(u, lens)
    # filled, not multiplied: padding may hold NaN, which times 0 stays NaN
    x = u.to(dtype) if padding is None else u.to(dtype).masked_fill(padding, 0.0)
    if form == "fft":
        y, end = fft_memory(x, Ad, Bd, readout, skip, state, lens)
    elif form == "sequential":
        y, end = sequential_memory(x, Ad, Bd, readout, skip, begin, lens)
    else:
        ops = chunk_operators(Ad, Bd, chunk, dtype)
        y, end = chunked_memory(x, ops, readout, skip, begin, lens, product_dtype)
    if padding is not None:
        y = y.masked_fill(padding if y.dim() == 3 else padding.unsqueeze(-1), 0.0)
    return y, end


def legendre_projection(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    x: Tensor | None = None,
    x_weight: Tensor | None = None,
    state: Tensor | None = None,
    lens: Tensor | None = None,
    chunk_size: int | None = None,
    product_dtype: torch.dtype | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return ``W m + V x + b`` (N, T, D) with the memory m of u folded into W, and the state.

    Args:
        u, Ad, Bd, state, lens: as in :func:`legendre_memory`.
        weight: W (D, C * Q), channel by channel.
        bias: b (D,).
        x, x_weight: (N, T, F) and V (D, F), a second input added to the same output.
        chunk_size: frames in a chunk.
        product_dtype: as in :func:`legendre_memory`.
        relu: rectify the sum, in the same buffer.

    Frames past ``lens`` count as zero in u; the output there has no meaning but is finite.

    Raises:
        LmuError: shapes do not fit together.
    """
    _check_shapes(u, Ad, Bd, None, None, state, lens)
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    if weight.dim() != 2 or weight.shape[1] != u.shape[2] * Bd.shape[1]:
        raise LmuError(
            f"weight must have C * Q = {u.shape[2] * Bd.shape[1]} columns; got {tuple(weight.shape)}"
        )
    if u.shape[1] == 0:
        return u.new_zeros(u.shape[0], 0, weight.shape[0]), _begin(u, Bd, state, dtype)
    padding = _padding(u, lens)
    signal = u.to(dtype) if padding is None else u.to(dtype).masked_fill(padding, 0.0)
    begin = _begin(u, Bd, state, dtype)
    if product_dtype is None and u.device.type != "cpu":
        product_dtype = u.dtype
    side = None if x is None or x_weight is None else (x.to(dtype), x_weight.to(dtype))
    bias = None if bias is None else bias.to(dtype)
    with torch.autocast(u.device.type, enabled=False):
        y, end = chunked_projection(
            signal,
            Ad,
            Bd,
            weight.to(dtype),
            bias,
            side,
            begin,
            lens,
            chunk_size,
            product_dtype,
            relu,
        )
    return y.to(u.dtype), end


class LegendreMemory(nn.Module):
    """Channels of Legendre memory in groups of different theta, with an optional read-out.

    Args:
        channels: C, a multiple of the number of thetas; channels of one group are neighbours.
        order: Q.
        theta: window in frames of each group (G values, or one number).
        readout: own a trainable read-out (C, Q); without it the memory itself is returned.
        skip: own a trainable skip (C,) beside the read-out.
        trainable_theta: train log theta of each group through the exact discretisation.
        form, chunk_size: as in :func:`legendre_memory`.
        method: discretisation, as in :func:`discretize`.
        min_theta, max_theta: bounds in frames of a trained theta.

    A and B are those of the Legendre delay system at the stated theta and are never trained.

    Raises:
        LmuError: sizes do not fit, a theta is outside its bounds, or the form is unknown.
        UnstableDiscretizationError: the method diverges at a given theta.
    """

    log_theta: Tensor
    fixed_theta: Tensor

    def __init__(
        self,
        channels: int,
        order: int,
        theta: float | Sequence[float],
        *,
        readout: bool = True,
        skip: bool = True,
        trainable_theta: bool = False,
        form: str = "auto",
        chunk_size: int | None = None,
        method: str = "zoh",
        min_theta: float = 1.0,
        max_theta: float = 1e6,
    ) -> None:
        super().__init__()
        values = [float(theta)] if isinstance(theta, (int, float)) else [float(x) for x in theta]
        _check_module(channels, values, form, min_theta, max_theta)
        self.channels, self.order, self.method = channels, order, method
        self.form, self.chunk_size = form, chunk_size
        self.min_theta, self.max_theta = min_theta, max_theta
        self.trainable_theta = trainable_theta
        thetas = torch.tensor(values)
        if trainable_theta:
            self.log_theta = nn.Parameter(thetas.log())
        else:
            self.register_buffer("fixed_theta", thetas)
        check_stable(discretize(order, thetas, method=method)[0], thetas, method)
        self._system: tuple[tuple[object, ...], Tensor, Tensor] | None = None
        self.readout = nn.Parameter(torch.empty(channels, order)) if readout else None
        self.skip = nn.Parameter(torch.empty(channels)) if readout and skip else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the read-out so that a white input keeps about its variance; set the skip to 1."""
        if self.readout is not None:
            thetas = self.theta.detach().repeat_interleave(self.channels // len(self.theta))
            spread = (thetas.clamp(min=1.0) / self.order).sqrt()
            with torch.no_grad():
                self.readout.normal_().mul_(spread[:, None])
        if self.skip is not None:
            nn.init.ones_(self.skip)

    @property
    def theta(self) -> Tensor:
        """Windows in frames (G,), float32."""
        if not self.trainable_theta:
            return self.fixed_theta
        bounds = math.log(self.min_theta), math.log(self.max_theta)
        # trained as a logarithm, so that a step changes short and long windows by the same share
        return self.log_theta.float().clamp(*bounds).exp()

    @property
    def Ad(self) -> Tensor:  # noqa: N802
        """The discrete state matrix (G, Q, Q), float32."""
        return self.system()[0].float()

    @property
    def Bd(self) -> Tensor:  # noqa: N802
        """The discrete input vector (G, Q), float32."""
        return self.system()[1].float()

    def system(self) -> tuple[Tensor, Tensor]:
        """Return Ad (G, Q, Q) and Bd (G, Q) in float64; computed once for a fixed theta."""
        theta = self.theta
        # a trained theta needs its graph anew in every pass
        if theta.requires_grad and torch.is_grad_enabled():
            return discretize(self.order, theta, method=self.method)
        # a fixed theta is not read: tolist would make the CPU wait for the device in every pass
        key = (theta.device, tuple(theta.tolist())) if self.trainable_theta else (theta.device,)
        if self._system is None or self._system[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                matrices = discretize(self.order, theta, method=self.method)
            self._system = (key, *matrices)
        return self._system[1:]

    def init_state(self, n: int) -> Tensor:
        """Return the zero state (n, C, Q) of n streams, float32."""
        return torch.zeros(n, self.channels, self.order, device=self.theta.device)

    def forward(
        self, u: Tensor, lens: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run u (N, T, C) from ``state``; shapes and errors as in :func:`legendre_memory`."""
        Ad, Bd = self.system()
        return legendre_memory(
            u,
            Ad,
            Bd,
            readout=self.readout,
            skip=self.skip,
            state=state,
            lens=lens,
            form=self.form,
            chunk_size=self.chunk_size,
        )

    def extra_repr(self) -> str:
        """Return sizes and windows for printing the module."""
        thetas = ", ".join(f"{x:g}" for x in self.theta.tolist())
        return f"channels={self.channels}, order={self.order}, theta=[{thetas}], form={self.form}"

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Move like any module, but keep fixed windows in float32: bf16 would change them."""
        kept = None if self.trainable_theta else self.fixed_theta
        super()._apply(fn)
        self._system = None
        if kept is not None and self.fixed_theta.dtype != kept.dtype:
            self.fixed_theta = kept.to(self.fixed_theta.device)
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        """Load, and forget the matrices of the windows held before."""
        super()._load_from_state_dict(*args, **kwargs)
        self._system = None


def _padding(u: Tensor, lens: Tensor | None) -> Tensor | None:
    """Return (N, T, 1), true past each sequence's end."""
    if lens is None:
        return None
    return (torch.arange(u.shape[1], device=u.device) >= lens[:, None]).unsqueeze(-1)


def _chosen(
    form: str,
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    readout: Tensor | None,
    state: Tensor | None = None,
) -> str:
    """Return the form that will run; docs/benchmarks-lmu.md has the measurements behind it.

    Raises:
        LmuError: the form is unknown.
    """
    if form not in FORMS:
        raise LmuError(f"unknown form {form!r}: choose one of {', '.join(FORMS)}")
    if form in ("sequential", "fft", "chunked"):
        return form
    trained = torch.is_grad_enabled() and (Ad.requires_grad or Bd.requires_grad)
    fused = readout is not None and not trained and Bd.shape[-1] <= KERNEL_ORDERS
    on_cpu = u.device.type == "cpu"
    if fused and on_cpu and form != "triton" and kernel_available():
        return "compiled"
    wanted = form == "triton" or (form == "auto" and not on_cpu)
    wanted = wanted and u.dtype != torch.float64 and Bd.shape[-1] <= TRITON_ORDERS
    if fused and wanted and triton_available(u.device):
        return "triton"
    by_fft = readout is not None and state is None and not trained and u.shape[1] in FFT_FRAMES
    if form == "auto" and on_cpu and by_fft and Bd.shape[-1] > KERNEL_ORDERS:
        return "fft"
    if form != "auto":
        _say_once(form, readout is not None, trained, str(u.device))
    return "chunked"


@functools.cache
def _say_once(form: str, readout: bool, trained: bool, device: str) -> None:
    """Log why a form that was named does not run."""
    if not readout:
        reason = "it computes read-outs, not the memory itself"
    elif trained:
        reason = "it has no gradient for a trained theta"
    else:
        reason = f"it is not there for {device}, or not for this order and type"
    _log.info("memory form %s: %s; the chunked form runs instead", form, reason)


def _begin(u: Tensor, Bd: Tensor, state: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the state before the first frame, (N, C, Q)."""
    N, _, C = u.shape
    return u.new_zeros(N, C, Bd.shape[-1], dtype=dtype) if state is None else state.to(dtype)


def _nothing(u: Tensor, Bd: Tensor, readout: Tensor | None) -> Tensor:
    """Return the output for no frames."""
    N, _, C = u.shape
    return u.new_zeros((N, 0, C, Bd.shape[-1]) if readout is None else (N, 0, C))


def _check_shapes(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    readout: Tensor | None,
    skip: Tensor | None,
    state: Tensor | None,
    lens: Tensor | None,
) -> None:
    if u.dim() != 3 or Bd.dim() != 2:
        raise LmuError(f"u is (N, T, C) and Bd (G, Q); got {tuple(u.shape)} and {tuple(Bd.shape)}")
    N, _, C = u.shape
    G, Q = Bd.shape
    if C % G != 0:
        raise LmuError(f"{C} channels do not divide into {G} groups of theta")
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("Ad", Ad, (G, Q, Q)),
        ("readout", readout, (C, Q)),
        ("skip", skip, (C,)),
        ("state", state, (N, C, Q)),
        ("lens", lens, (N,)),
    ]
    for name, tensor, shape in expected:
        if tensor is not None and tensor.shape != shape:
            raise LmuError(
                f"{name} must be {shape} beside u {tuple(u.shape)}; got {tuple(tensor.shape)}"
            )
    if skip is not None and readout is None:
        raise LmuError("a skip needs a read-out: the memory itself has no channel to add it to")


def _check_module(
    channels: int, thetas: list[float], form: str, min_theta: float, max_theta: float
) -> None:
    if not thetas or channels < 1 or channels % len(thetas) != 0:
        raise LmuError(f"{channels} channels do not divide into {len(thetas)} groups of theta")
    if form not in FORMS:
        raise LmuError(f"unknown form {form!r}: choose one of {', '.join(FORMS)}")
    outside = [x for x in thetas if not min_theta <= x <= max_theta]
    if outside:
        raise LmuError(f"theta {outside} lies outside [{min_theta}, {max_theta}] frames")
