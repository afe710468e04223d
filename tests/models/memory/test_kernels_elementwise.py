"""Compiled element-wise parts against float64 definitions, values and gradients, any layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmu_asr.models.memory.kernels import build, elementwise

Function = Callable[..., Tensor]


@pytest.fixture(params=["compiled", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "torch":
        monkeypatch.setattr(elementwise, "library", lambda: None)
    elif elementwise.library() is None:
        pytest.skip("no C++ compiler here")
    yield request.param


def check(function: Function, reference: Function, *inputs: Tensor) -> None:
    """Compare values and gradients with those of float64 autograd over the definition."""
    own = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    y, expected = function(*own), reference(*exact)
    weight = torch.randn(expected.shape, dtype=torch.float64)
    gradients = torch.autograd.grad((y * weight.float()).sum(), own)
    wanted = torch.autograd.grad((expected * weight).sum(), exact)
    for a, b in zip((y, *gradients), (expected, *wanted), strict=True):
        assert a.shape == b.shape
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-12


@pytest.mark.parametrize("shape", [(1, 5), (3, 7), (2, 5, 144), (130, 33), (300, 96)])
def test_rms_norm(path: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(shape) * 3, torch.randn(shape[-1])
    check(
        lambda x, w: elementwise.rms_norm(x, w, 1e-6),
        lambda x, w: x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w,
        x,
        w,
    )


@pytest.mark.parametrize("shape", [(1, 2), (2, 3, 14), (70, 600)])
def test_swiglu(path: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)

    def reference(ab: Tensor) -> Tensor:
        a, b = ab.chunk(2, -1)
        return a * torch.sigmoid(a) * b

    check(elementwise.swiglu, reference, torch.randn(shape) * 5)


@pytest.mark.parametrize("layout", ["plain", "halves", "transposed", "expanded"])
def test_silu_gate_in_any_layout(path: str, layout: str) -> None:
    torch.manual_seed(2)
    both = torch.randn(3, 40, 34) * 4

    def cut(x: Tensor) -> tuple[Tensor, Tensor]:
        if layout == "plain":
            return x[..., :17].contiguous(), x[..., 17:].contiguous()
        if layout == "halves":
            return x[..., :17], x[..., 17:]
        if layout == "transposed":
            return x.transpose(0, 1)[..., :17], x.transpose(0, 1)[..., 17:]
        return x[:1, :, :17].expand(3, 40, 17), x[..., 17:]

    def reference(x: Tensor) -> Tensor:
        v, g = cut(x)
        return v * g * torch.sigmoid(g)

    check(lambda x: elementwise.silu_gate(*cut(x)), reference, both)


def test_gate_is_right_far_out_and_passes_nan_on(path: str) -> None:
    x = torch.tensor([-200.0, -90.0, -30.0, 0.0, 30.0, 90.0, 200.0, torch.nan])
    y = elementwise.silu_gate(torch.ones(8), x)
    torch.testing.assert_close(y, F.silu(x.double()).float(), equal_nan=True, atol=1e-12, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.7])
def test_dropped_sum(path: str, rate: float) -> None:
    torch.manual_seed(3)
    x, branch = torch.randn(100, 997), torch.rand(100, 997) + 1
    x, branch = x.requires_grad_(), branch.requires_grad_()
    y = elementwise.dropped_sum(x, branch, rate)
    added = (y - x).detach()
    kept = added.abs() > 1e-3
    assert abs(float(kept.float().mean()) - (1 - rate)) < 0.005
    for rows in kept.float().mean(1), kept.float().mean(0):  # no row or column stands out
        assert (rows - (1 - rate)).abs().max() < 6 * (0.25 / 100) ** 0.5
    torch.testing.assert_close(added[kept], (branch.detach() / (1 - rate))[kept])
    gx, gb = torch.autograd.grad(y.sum(), [x, branch])
    assert torch.equal(gx, torch.ones_like(x))
    torch.testing.assert_close(gb, kept.float() / (1 - rate))


def test_dropped_sum_repeats_with_the_seed_and_not_without(path: str) -> None:
    def draw(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [elementwise.dropped_sum(torch.zeros(999), torch.ones(999), 0.5) for _ in range(2)]

    first, second = draw(4)
    assert torch.equal(first, draw(4)[0]) and torch.equal(second, draw(4)[1])
    for other in (second, draw(5)[0]):
        assert 0.4 < float((first == other).float().mean()) < 0.6


def test_compiled_results_do_not_depend_on_threads() -> None:
    if elementwise.library() is None:
        pytest.skip("no C++ compiler here")
    torch.manual_seed(6)
    x, w = torch.randn(500, 144, requires_grad=True), torch.randn(144, requires_grad=True)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(7)
        y = elementwise.dropped_sum(x, elementwise.rms_norm(x, w, 1e-6), 0.3)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, w])))
    torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_other_dtypes_take_torch() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        x = torch.randn(4, 6, dtype=dtype)
        assert elementwise.rms_norm(x, torch.ones(6, dtype=dtype), 1e-6).dtype == dtype
        assert elementwise.swiglu(x).dtype == dtype
        assert elementwise.silu_gate(x, x).dtype == dtype
        assert elementwise.dropped_sum(x, x, 0.5).dtype == dtype


def test_autocast_widens_its_products_on_the_cpu(path: str) -> None:
    torch.manual_seed(2)
    x = torch.randn(4, 6)
    narrow = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        gated = elementwise.silu_gate(narrow, narrow)
        packed = elementwise.swiglu(narrow)
        dropped = elementwise.dropped_sum(x, narrow, 0.5)
    wide = narrow.float()
    torch.testing.assert_close(gated, wide * F.silu(wide))
    torch.testing.assert_close(packed, F.silu(wide[:, :3]) * wide[:, 3:])
    assert dropped.dtype == torch.float32
    kept = (dropped - x) != 0
    torch.testing.assert_close(dropped[kept], (x + 2 * wide)[kept])


def test_source_that_does_not_compile_falls_back_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LMU_ASR_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "broken.cpp"
    source.write_text("this is no C++\n")
    assert build.load_library(source) is None
    assert len(caplog.records) == 1 and "broken.cpp runs in torch" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_compiler_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    caplog.set_level("INFO")
    source = tmp_path / "any.cpp"
    source.write_text("int x;\n")
    assert build.load_library(source) is None
    assert "no C++ compiler" in caplog.text


def test_library_is_built_once_and_anew_when_the_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if elementwise.library() is None:
        pytest.skip("no C++ compiler here")
    monkeypatch.setenv("LMU_ASR_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "answer.cpp"
    for count, value in ((1, 41), (2, 42), (2, 42)):
        source.write_text(f'extern "C" int answer() {{ return {value}; }}\n')
        build.load_library.cache_clear()
        found = build.load_library(source)
        assert found is not None and found.answer() == value
        assert len(list((tmp_path / "cache").iterdir())) == count
    build.load_library.cache_clear()


def test_native_parts_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMU_ASR_NATIVE", "0")
    assert build.load_library(tmp_path / "never-read.cpp") is None
