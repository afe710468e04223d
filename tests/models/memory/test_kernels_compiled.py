"""The compiled kernel's own corners: tiles, threads, memory layout, denormals, no compiler."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lmu_asr.models.memory.kernels import compiled
from lmu_asr.models.memory.module import LmuError, discretize, legendre_memory

pytestmark = pytest.mark.skipif(not compiled.available(), reason="no C++ compiler")


@pytest.fixture
def threads() -> Iterator[None]:
    """Give torch its threads back afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(
    form: str, u: Tensor, thetas: list[float], Q: int, lens: Tensor | None = None
) -> list[Tensor]:
    """Output, end state and gradients of a random read-out."""
    torch.manual_seed(3)
    C = u.shape[2]
    Ad, Bd = discretize(Q, torch.tensor(thetas))
    tensors = u.detach(), torch.randn(C, Q), torch.randn(C), torch.randn(u.shape[0], C, Q)
    leaves = [x.to(u.dtype).requires_grad_() for x in tensors]
    x, readout, skip, state = leaves
    y, end = legendre_memory(
        x, Ad, Bd, readout=readout, skip=skip, state=state, lens=lens, form=form
    )
    loss = (y * torch.linspace(-1, 1, y.shape[1], dtype=y.dtype)[:, None]).sum() + end.sum()
    return [y.detach(), end.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("channels", [1, 5, 16, 17, 31, 32, 33, 48, 70])
@pytest.mark.parametrize("groups", [1, 3])
def test_tiles_of_any_width(channels: int, groups: int) -> None:
    u = torch.randn(2, 21, channels * groups, dtype=torch.float64)
    thetas = [6.0, 30.0, 9.0][:groups]
    lens = torch.tensor([21, 10])
    for ours, wanted in zip(
        run("compiled", u, thetas, 7, lens), run("sequential", u, thetas, 7, lens), strict=True
    ):
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-9)


def test_threads_change_no_value(threads: None) -> None:
    u = torch.randn(5, 50, 96)
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        results.append(run("compiled", u, [8.0, 50.0], 8))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0][:3], other[:3], strict=True))
        for a, b in zip(results[0][3:], other[3:], strict=True):  # sums over threads
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.set_num_threads(3)
    again = run("compiled", u, [8.0, 50.0], 8)
    assert all(torch.equal(a, b) for a, b in zip(results[2], again, strict=True))


def test_strided_and_unaligned_inputs() -> None:
    u = torch.randn(2, 19, 6)
    wanted = run("compiled", u, [5.0], 4)
    strided = u.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    shifted = torch.cat([torch.zeros(1), u.flatten()])[1:].view(2, 19, 6)
    for other in (strided, shifted):
        ours = run("compiled", other, [5.0], 4)
        assert all(torch.equal(a, b) for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize("form", ["compiled", "chunked"])
def test_decay_ends_in_zero_not_in_denormals(form: str) -> None:
    Ad, Bd = discretize(6, torch.tensor([5.0]))
    u = torch.zeros(1, 2000, 3)
    u[:, :4] = 1.0
    y, end = legendre_memory(u, Ad, Bd, readout=torch.ones(3, 6), form=form)
    smallest = torch.finfo(torch.float32).tiny
    assert not bool(((y != 0) & (y.abs() < smallest)).any())
    assert not bool(end.any())


def test_lengths_outside_the_batch_are_clipped() -> None:
    u = torch.randn(3, 12, 2)
    ours = run("compiled", u, [5.0], 4, torch.tensor([12, 20, -3]))
    wanted = run("compiled", u, [5.0], 4, torch.tensor([12, 12, 0]))
    assert all(torch.equal(a, b) for a, b in zip(ours, wanted, strict=True))


def test_a_kernel_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Ad, Bd = discretize(4, torch.tensor([8.0]))
    monkeypatch.setattr(compiled, "library", lambda: None)
    state = torch.zeros(1, 2, 4)
    with pytest.raises(LmuError, match="compiler"):
        compiled.compiled_memory(torch.zeros(1, 3, 2), Ad, Bd, torch.ones(2, 4), None, state, None)
