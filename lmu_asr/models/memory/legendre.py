"""The Legendre delay system: continuous matrices, exact discretisation, read-outs.

Legend: Q order, G groups of one theta. Sources: Voelker, Kajic and Eliasmith, "Legendre Memory
Units", NeurIPS 2019; Gu et al., "HiPPO", NeurIPS 2020 (the same system in an orthonormal basis).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmu_asr.errors import ModelError

METHODS = ("zoh", "bilinear", "euler")


class LmuError(ModelError):
    """An order, theta, shape or form that a Legendre memory cannot have."""


class UnstableDiscretizationError(LmuError):
    """A discretisation whose state would grow without bound."""


def legendre_system(order: int, *, normalized: bool = True) -> tuple[Tensor, Tensor]:
    """Return A (Q, Q) and B (Q,) of ``theta dm/dt = A m + B u`` in float64.

    ``normalized`` gives the orthonormal basis; otherwise the numbers are those published by
    Voelker et al. 2019, equation 2.

    Raises:
        LmuError: the order is under 1.
    """
    _check_order(order)
    q = torch.arange(order, dtype=torch.float64)
    rows, columns = q[:, None], q[None, :]
    sign = torch.where(rows < columns, -torch.ones(()).double(), (-1.0) ** (rows - columns + 1))
    degree = 2 * q + 1
    if normalized:
        root = degree.sqrt()
        return root[:, None] * root * sign, root * (-1.0) ** q
    return degree[:, None] * sign, degree * (-1.0) ** q


def discretize(
    order: int, theta: float | Tensor, *, method: str = "zoh", normalized: bool = True
) -> tuple[Tensor, Tensor]:
    """Return Ad (..., Q, Q) and Bd (..., Q), float64, of ``m[t] = Ad m[t-1] + Bd u[t]``.

    Args:
        order: Q.
        theta: window in frames, a number or a tensor (...) that may need a gradient.
        method: "zoh" (exact for an input constant over each frame), "bilinear" or "euler".
        normalized: basis, as in :func:`legendre_system`.

    The derivative of the zero-order hold in theta is exact: with M = [[A, B], [0, 0]] the
    exponentials of M / theta commute, so that d expm(M / theta) = -M expm(M / theta) / theta**2.

    Raises:
        LmuError: the order is under 1, a theta is not positive, or the method is unknown.
    """
    A, B = legendre_system(order, normalized=normalized)
    theta = torch.as_tensor(theta, dtype=torch.float64)
    if not bool((theta.detach() > 0).all()) or not bool(torch.isfinite(theta.detach()).all()):
        raise LmuError(f"theta must be positive and finite, in frames; got {theta.tolist()}")
    A, B = A.to(theta.device), B.to(theta.device)
    if method == "zoh":
        return _zero_order_hold(A, B, theta)
    eye = torch.eye(order, dtype=torch.float64, device=theta.device)
    A, B = A / theta[..., None, None], B / theta[..., None]
    if method == "euler":
        return eye + A, B
    if method == "bilinear":
        left = eye - A / 2
        return torch.linalg.solve(left, eye + A / 2), torch.linalg.solve(left, B)
    raise LmuError(f"unknown discretisation {method!r}: choose one of {', '.join(METHODS)}")


def delay_readout(order: int, delay: float | Sequence[float], normalized: bool = True) -> Tensor:
    """Return the weights (Q,) with ``weights . m ~ u(t - delay * theta)``, 0 <= delay <= 1.

    They are shifted Legendre polynomials at ``delay``; a sequence of delays (D,) gives (D, Q).

    Raises:
        LmuError: the order is under 1 or a delay lies outside [0, 1].
    """
    _check_order(order)
    r = torch.as_tensor(delay, dtype=torch.float64)
    if not bool(((r >= 0) & (r <= 1)).all()):
        raise LmuError(f"a delay is a fraction of theta in [0, 1]; got {delay}")
    x = 2 * r - 1
    values = [torch.ones_like(x), x]
    for q in range(1, order - 1):
        values.append(((2 * q + 1) * x * values[q] - q * values[q - 1]) / (q + 1))
    readout = torch.stack(values[:order], dim=-1)
    if normalized:
        readout = readout * (2 * torch.arange(order, dtype=torch.float64) + 1).sqrt()
    return readout


def spectral_radius(Ad: Tensor) -> float:
    """Return the largest eigenvalue magnitude of Ad (..., Q, Q); above 1 the memory diverges."""
    return float(torch.linalg.eigvals(Ad.detach().double()).abs().max())


def check_stable(Ad: Tensor, theta: float | Tensor, method: str) -> None:
    """Raise if a discretisation lets the state grow.

    Raises:
        UnstableDiscretizationError: the spectral radius is above 1.
    """
    radius = spectral_radius(Ad)
    # a stable system may come out a rounding error above 1
    if radius > 1 + 1e-9:
        order = Ad.shape[-1]
        windows = theta.tolist() if isinstance(theta, Tensor) else theta
        raise UnstableDiscretizationError(
            f"{method} at order {order}, theta {windows} has spectral radius {radius:.4f} > 1 and "
            f"diverges; use zoh, or for euler a theta well over {4 * order}"
        )


def _zero_order_hold(A: Tensor, B: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    Q = A.shape[0]
    # one exponential of [[A, B], [0, 0]] gives Ad and Bd together (Van Loan 1978)
    joint = torch.zeros(Q + 1, Q + 1, dtype=A.dtype, device=A.device)
    joint[:Q, :Q], joint[:Q, Q] = A, B
    fixed = theta.detach()[..., None, None]
    exponential = torch.linalg.matrix_exp(joint / fixed)
    if theta.requires_grad:
        slope = -(joint @ exponential) / fixed**2
        # adds zero to the value; autograd sees the exact slope, not the one through matrix_exp
        exponential = exponential + slope * (theta[..., None, None] - fixed)
    return exponential[..., :Q, :Q], exponential[..., :Q, Q]


def _check_order(order: int) -> None:
    if order < 1:
        raise LmuError(f"the order of a Legendre memory is at least 1; got {order}")
