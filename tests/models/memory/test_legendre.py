"""The Legendre delay system: published numbers, discretisation, what the read-out reproduces."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from scipy.signal import cont2discrete
from torch import Tensor

from lmu_asr.models.memory.module import (
    LegendreMemory,
    LmuError,
    UnstableDiscretizationError,
    delay_readout,
    discretize,
    legendre_memory,
    legendre_system,
    spectral_radius,
)


def test_published_matrices() -> None:
    A, B = legendre_system(4, normalized=False)  # Voelker et al. 2019, equation 2
    assert A.tolist() == [[-1, -1, -1, -1], [3, -3, -3, -3], [-5, 5, -5, -5], [7, -7, 7, -7]]
    assert B.tolist() == [1, -3, 5, -7]


def test_normalized_system_is_the_same_memory() -> None:
    root = (2 * torch.arange(7).double() + 1).sqrt()
    A, B = legendre_system(7, normalized=False)
    An, Bn = legendre_system(7)
    torch.testing.assert_close(An, A / root[:, None] * root)
    torch.testing.assert_close(Bn, B / root)
    here, there = delay_readout(7, 0.3), delay_readout(7, 0.3, normalized=False)
    torch.testing.assert_close(here @ Bn, there @ B)


@pytest.mark.parametrize("method", ["zoh", "bilinear", "euler"])
@pytest.mark.parametrize(("order", "theta"), [(1, 2.0), (6, 4000.0), (16, 37.5), (64, 200.0)])
def test_discretisation_matches_scipy(method: str, order: int, theta: float) -> None:
    A, B = (x.numpy() for x in legendre_system(order, normalized=False))
    C, D = torch.ones(1, order).numpy(), torch.zeros(1, 1).numpy()
    Ad, Bd, *_ = cont2discrete((A / theta, B[:, None] / theta, C, D), 1.0, method)
    ours = discretize(order, theta, method=method, normalized=False)
    torch.testing.assert_close(ours[0], torch.from_numpy(Ad), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(ours[1], torch.from_numpy(Bd)[:, 0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", ["zoh", "bilinear", "euler"])
def test_derivative_in_theta(method: str) -> None:
    theta = torch.tensor([7.0, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: discretize(5, x, method=method), theta)


def test_zero_order_hold_is_stable_where_euler_is_not() -> None:
    for order, theta, low, high in [(16, 50.0, 1.024, 1.026), (256, 1000.0, 2.0, 2.5)]:
        Ad, _ = discretize(order, theta, method="euler")
        assert low < spectral_radius(Ad) < high
        assert spectral_radius(discretize(order, theta)[0]) < 1
    with pytest.raises(UnstableDiscretizationError, match=r"euler at order 16.*1\.02"):
        LegendreMemory(2, 16, 50.0, method="euler")
    LegendreMemory(2, 16, 400.0, method="euler")


def pade(order: int, s: complex) -> complex:
    """The [Q-1/Q] Pade approximant of exp(-s), from its closed form."""
    n = 2 * order - 1
    scale = [math.factorial(n - i) / math.factorial(n) for i in range(order + 1)]
    top = sum(math.comb(order - 1, i) * scale[i] * (-s) ** i for i in range(order))
    return top / sum(math.comb(order, i) * scale[i] * s**i for i in range(order + 1))


@pytest.mark.parametrize("order", [1, 2, 3, 6, 12])
def test_full_delay_is_the_pade_approximant(order: int) -> None:
    """Voelker and Eliasmith 2018: the transfer function to u(t - theta)."""
    A, B = (x.to(torch.complex128) for x in legendre_system(order))
    readout = delay_readout(order, 1.0).to(torch.complex128)
    for omega in (0.1, 1.0, 3.0, 10.0):
        s = 1j * omega
        ours = readout @ torch.linalg.solve(s * torch.eye(order, dtype=A.dtype) - A, B)
        assert abs(complex(ours) - pade(order, s)) < 1e-9


@pytest.mark.parametrize("form", ["sequential", "fft", "chunked", "compiled"])
@pytest.mark.parametrize(("order", "cycles"), [(4, 0.8), (6, 1.2), (12, 3.0), (24, 7.0)])
def test_delayed_sine_has_the_published_error(form: str, order: int, cycles: float) -> None:
    """The error of u(t - theta) is that of the Pade approximant, no more and no less.

    Steady state at theta 2000: holding a frame adds half a frame of delay and little else.
    """
    theta, T = 2000.0, 8000
    omega = 2 * math.pi * cycles / theta  # radians a frame
    t = torch.arange(T, dtype=torch.float64)
    Ad, Bd = discretize(order, torch.tensor([theta]))
    u = torch.sin(omega * t)[None, :, None]
    y, _ = legendre_memory(u, Ad, Bd, readout=delay_readout(order, [1.0]), form=form)
    wrong = (y[0, :, 0] - torch.sin(omega * (t + 0.5 - theta)))[6000:].abs().max()
    s = 1j * omega * theta
    published = abs(pade(order, s) - cmath.exp(-s))
    assert 1e-3 < published < 0.5
    assert abs(float(wrong) - published) < 0.01 * published + 1e-4


def band_limited(frames: Tensor, theta: float, cycles: float) -> Tensor:
    """A sum of sines of up to ``cycles`` periods a window."""
    parts = [
        torch.sin(2 * math.pi * f * frames / theta + 7 * f) for f in torch.linspace(0.1, cycles, 5)
    ]
    return torch.stack(parts).mean(0)


@pytest.mark.parametrize("form", ["sequential", "fft", "chunked", "compiled"])
@pytest.mark.parametrize(("order", "cycles"), [(8, 1.0), (24, 4.0)])
def test_readout_reproduces_the_past(form: str, order: int, cycles: float) -> None:
    """``c(r) . m`` is u(t - r theta), half a frame later: a frame is held up to its end.

    The newest edge of the window, r = 0, converges slowest.
    """
    theta, T = 400.0, 1500
    frames = torch.arange(T, dtype=torch.float64)
    delays = [0.0, 0.25, 0.5, 1.0]
    u = band_limited(frames, theta, cycles).repeat(len(delays), 1).T[None]  # (1, T, 4)
    Ad, Bd = discretize(order, torch.tensor([theta]))
    y, _ = legendre_memory(u, Ad, Bd, readout=delay_readout(order, delays), form=form)
    for channel, delay in enumerate(delays):
        wanted = band_limited(frames + 0.5 - delay * theta, theta, cycles)
        error = (y[0, 1000:, channel] - wanted[1000:]).abs().max()
        assert error < (5e-3 if delay == 0 else 3e-4)


def test_bad_systems_are_named() -> None:
    for make in (
        lambda: legendre_system(0),
        lambda: discretize(4, 0.0),
        lambda: discretize(4, float("nan")),
        lambda: discretize(4, 8.0, method="rk4"),
        lambda: delay_readout(4, 1.5),
    ):
        with pytest.raises(LmuError):
            make()
