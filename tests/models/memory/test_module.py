"""Every evaluation of the memory against a float64 scan: values, gradients, lengths, streaming."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmu_asr.models.memory import module as memory_module
from lmu_asr.models.memory.kernels import operators
from lmu_asr.models.memory.module import (
    LegendreMemory,
    LmuError,
    discretize,
    legendre_memory,
    legendre_projection,
    legendre_system,
)

FAST = ["fft", "chunked", "compiled"]
FORMS = ["sequential", *FAST]
TOLERANCE = {"sequential": 5e-6, "fft": 1e-6, "chunked": 1e-6, "compiled": 1e-6}


@dataclass
class Case:
    """Inputs of a memory in float64 and what a plain scan makes of them."""

    Ad: Tensor
    Bd: Tensor
    u: Tensor
    lens: Tensor
    state: Tensor
    readout: Tensor
    skip: Tensor

    def scan(self) -> tuple[Tensor, Tensor]:
        """The memory (N, T, C, Q), zero past the lengths, and the states at the lengths."""
        N, T, C = self.u.shape
        per_channel = C // self.Bd.shape[0]
        A = self.Ad.repeat_interleave(per_channel, 0).transpose(1, 2)
        B = self.Bd.repeat_interleave(per_channel, 0)[:, None]
        frames = (self.u.permute(1, 2, 0).unsqueeze(-1) * B).unbind(0)  # T of (C, N, Q)
        m, rows = self.state.transpose(0, 1), []
        for frame in frames:
            m = torch.baddbmm(frame, m, A)
            rows.append(m)
        y = torch.stack(rows).permute(2, 0, 1, 3)
        start = self.state.unsqueeze(1)
        end = torch.cat([start, y], 1)[torch.arange(N), self.lens]
        valid = torch.arange(T) < self.lens[:, None]
        return y * valid[..., None, None], end

    def outputs(self, y: Tensor) -> Tensor:
        """The read-out with skip of the scanned memory."""
        valid = torch.arange(self.u.shape[1]) < self.lens[:, None]
        return (y * self.readout).sum(-1) + self.skip * self.u * valid[..., None]

    def run(
        self, form: str, dtype: torch.dtype = torch.float32, **more: object
    ) -> tuple[Tensor, Tensor]:
        """The read-out by one of the forms, inputs rounded to ``dtype``."""
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        return legendre_memory(
            self.u.to(dtype),
            self.Ad,
            self.Bd,
            readout=self.readout.to(kept),
            skip=self.skip.to(kept),
            state=self.state.to(kept),
            lens=self.lens,
            form=form,
            **more,  # type: ignore[arg-type]
        )


def make(
    Q: int, thetas: list[float], T: int, *, N: int = 3, per_group: int = 2, seed: int = 0
) -> Case:
    """Random inputs, values of float32 exactly, with ragged lengths, one of them T."""
    torch.manual_seed(seed)
    C = len(thetas) * per_group
    Ad, Bd = discretize(Q, torch.tensor(thetas))
    lens = torch.randint(0, T + 1, (N,))
    lens[-1] = T
    shapes = [(N, T, C), (N, C, Q), (C, Q), (C,)]
    u, state, readout, skip = (torch.randn(x).double() for x in shapes)
    return Case(Ad, Bd, u, lens, 0.1 * state, readout, skip)


def error(ours: Tensor, reference: Tensor) -> float:
    """Relative root-mean-square error."""
    ours, reference = ours.detach(), reference.detach()
    return float((ours - reference).norm() / reference.norm().clamp(min=1e-30))


@st.composite
def cases(draw: st.DrawFn, work: float) -> Case:
    """Orders 1 to 256, thetas 2 to 4000, as many frames as the work allows, up to 10,000."""
    Q = draw(st.integers(1, 256) | st.sampled_from([1, 8, 16, 256]))
    thetas = draw(
        st.lists(st.floats(2, 4000) | st.sampled_from([2.0, 4000.0]), min_size=1, max_size=2)
    )
    most = int(min(10000, max(20, work / (Q * Q))))
    T = draw(st.integers(1, most))
    return make(Q, thetas, T, N=2, per_group=draw(st.integers(1, 2)), seed=draw(st.integers(0, 99)))


@settings(max_examples=25, deadline=None)
@given(cases(work=1e7), st.sampled_from(FORMS))
def test_every_form_equals_a_float64_scan(case: Case, form: str) -> None:
    memory, end = case.scan()
    y, state = case.run(form)
    assert error(y, case.outputs(memory)) < TOLERANCE[form]
    assert (state - end).abs().max() < 5e-6
    m, _ = legendre_memory(
        case.u.float(), case.Ad, case.Bd, state=case.state.float(), lens=case.lens, form=form
    )
    assert error(m, memory) < TOLERANCE[form]


@pytest.mark.parametrize("Q", [1, 16, 64, 256])
@pytest.mark.parametrize("theta", [2.0, 4000.0])
def test_the_corners_at_10000_frames(Q: int, theta: float) -> None:
    case = make(Q, [theta], 10000, N=2, per_group=1)
    memory, end = case.scan()
    wanted = case.outputs(memory)
    for form in FORMS:
        y, state = case.run(form)
        assert error(y, wanted) < TOLERANCE[form], form
        assert (state - end).abs().max() < 5e-6, form
    weight = torch.randn(4, Q)
    projected, state = legendre_projection(
        case.u.float(), case.Ad, case.Bd, weight, state=case.state.float(), lens=case.lens
    )
    valid = (torch.arange(10000) < case.lens[:, None]).unsqueeze(-1)
    assert error(projected * valid, memory.flatten(2) @ weight.double().T) < 1e-6
    assert (state - end).abs().max() < 5e-6
    case.u = case.u.bfloat16().double()
    wanted = case.outputs(case.scan()[0])
    for form in FAST:
        assert error(case.run(form, torch.bfloat16)[0].double(), wanted) < 5e-3, form


@settings(max_examples=15, deadline=None)
@given(cases(work=5e5), st.sampled_from(FORMS))
def test_bfloat16_operands_keep_a_float32_state(case: Case, form: str) -> None:
    case.u = case.u.bfloat16().double()
    memory, end = case.scan()
    y, state = case.run(form, torch.bfloat16)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert error(y.double(), case.outputs(memory)) < 5e-3
    assert (state - end).abs().max() < 5e-6


@pytest.mark.parametrize("form", FORMS)
def test_autocast_leaves_the_memory_in_float32(form: str) -> None:
    case = make(16, [300.0], 200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = case.run(form)
    assert torch.equal(inside[0], case.run(form)[0]) and torch.equal(inside[1], case.run(form)[1])


@pytest.mark.parametrize("form", ["chunked", "projection"])
def test_bfloat16_products_keep_a_float32_state(form: str) -> None:
    """What a GPU multiplies in bfloat16, tried here: only products round, the state does not."""
    case = make(64, [300.0], 900, N=1, per_group=1)
    memory, _ = case.scan()
    half = {"product_dtype": torch.bfloat16}
    if form == "chunked":
        y, _ = case.run(form, **half)
        assert 1e-5 < error(y, case.outputs(memory)) < 5e-3
    else:
        weight = torch.randn(12, 64)
        args = case.u.float(), case.Ad, case.Bd, weight
        y, _ = legendre_projection(*args, state=case.state.float(), **half)
        wanted = memory.flatten(2) @ weight.double().T
        assert 1e-5 < error(y, wanted) < 5e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("T", [1, 13])
def test_gradients_in_float64(form: str, T: int) -> None:
    case = make(3, [4.0, 9.0], T, N=2, per_group=1)
    leaves = [x.requires_grad_() for x in (case.u, case.readout, case.skip, case.state)]

    def read_out(u: Tensor, readout: Tensor, skip: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return Case(case.Ad, case.Bd, u, case.lens, state, readout, skip).run(
            form, torch.float64, chunk_size=4
        )

    def memory(u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return legendre_memory(
            u, case.Ad, case.Bd, state=state, lens=case.lens, form=form, chunk_size=4
        )

    assert torch.autograd.gradcheck(read_out, leaves)
    assert torch.autograd.gradcheck(memory, [case.u, case.state])


@pytest.mark.parametrize("form", [*FORMS, "projection"])
def test_gradient_of_theta(form: str) -> None:
    case = make(3, [4.0, 9.0], 11, N=2)
    theta = torch.tensor([4.0, 9.0], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 12, dtype=torch.float64)

    def run(theta: Tensor) -> tuple[Tensor, Tensor]:
        Ad, Bd = discretize(3, theta)
        if form == "projection":
            return legendre_projection(case.u, Ad, Bd, weight, chunk_size=4)
        return legendre_memory(case.u, Ad, Bd, readout=case.readout, lens=case.lens, form=form)

    assert torch.autograd.gradcheck(run, theta)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.floats(2, 4000), min_size=1, max_size=2),
    st.integers(1, 20),
    st.sampled_from(FORMS),
)
def test_gradients_of_random_systems(Q: int, thetas: list[float], T: int, form: str) -> None:
    case = make(Q, thetas, T, N=2, per_group=1, seed=T)
    leaves = [x.requires_grad_() for x in (case.u, case.readout, case.skip, case.state)]

    def run(u: Tensor, readout: Tensor, skip: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        own = Case(case.Ad, case.Bd, u, case.lens, state, readout, skip)
        return own.run(form, torch.float64)

    assert torch.autograd.gradcheck(run, leaves)


def gradients(case: Case, direction: Tensor, form: str | None) -> list[Tensor]:
    """Gradients for u, read-out, skip and state: in float32 by a form, or by a float64 scan."""
    own = Case(**{k: v.clone() for k, v in vars(case).items()})
    dtype = torch.float32 if form else torch.float64
    leaves = [own.u, own.readout, own.skip, own.state]
    own.u, own.readout, own.skip, own.state = (x.to(dtype).requires_grad_() for x in leaves)
    y = own.run(form)[0] if form else own.outputs(own.scan()[0])
    inputs = [own.u, own.readout, own.skip, own.state]
    return list(torch.autograd.grad((y * direction.to(dtype)).sum(), inputs))


def usual_norms(case: Case) -> list[Tensor]:
    """Norm of each exact gradient over draws of all that it is linear in: no luck of cancelling."""
    squares = []
    for _ in range(4):
        redrawn = {k: torch.randn_like(getattr(case, k)) for k in ("u", "readout", "skip", "state")}
        exact = gradients(replace(case, **redrawn), torch.randn(case.u.shape), None)
        squares.append([g.square().sum() for g in exact])
    return [torch.stack(of_one).mean().sqrt() for of_one in zip(*squares, strict=True)]


def check_gradients(case: Case, form: str, tolerance: float = 1e-6) -> None:
    direction = torch.randn(case.u.shape)
    exact = gradients(case, direction, None)
    found = gradients(case, direction, form)
    for ours, wanted, usual in zip(found, exact, usual_norms(case), strict=True):
        assert (ours - wanted).norm() < tolerance * max(wanted.norm(), usual)


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize(("Q", "theta"), [(8, 30.0), (16, 4000.0), (64, 200.0), (256, 1000.0)])
def test_float32_gradients_equal_those_of_a_float64_scan(form: str, Q: int, theta: float) -> None:
    check_gradients(make(Q, [theta], 600, N=2), form)


@settings(max_examples=15, deadline=None)
@given(cases(work=1e6), st.sampled_from(FAST))
def test_float32_gradients_of_random_systems(case: Case, form: str) -> None:
    check_gradients(case, form, 2e-6)  # one frame at order 256: one sum of 256 terms in float32


@settings(max_examples=15, deadline=None)
@given(cases(work=5e5), st.integers(1, 40))
def test_projection_equals_a_dense_layer_on_the_memory(case: Case, length: int) -> None:
    memory, end = case.scan()
    N, T, _ = case.u.shape
    torch.manual_seed(1)
    weight, bias = torch.randn(6, case.readout.numel()), torch.randn(6)
    x, x_weight = torch.randn(N, T, 5), torch.randn(6, 5)
    y, state = legendre_projection(
        case.u.float(), case.Ad, case.Bd, weight, bias=bias, x=x, x_weight=x_weight,
        state=case.state.float(), lens=case.lens, chunk_size=min(length, T), relu=length % 2 == 1,
    )  # fmt: skip
    wanted = memory.flatten(2) @ weight.double().T + x.double() @ x_weight.double().T + bias
    wanted = wanted.relu() if length % 2 == 1 else wanted
    valid = (torch.arange(T) < case.lens[:, None]).unsqueeze(-1)
    assert error(y * valid, wanted * valid) < 1e-6
    assert (state - end).abs().max() < 5e-6


@pytest.mark.parametrize("relu", [False, True])
def test_projection_gradients(relu: bool) -> None:
    case = make(3, [4.0, 9.0], 11, N=2, per_group=1)
    tensors = [case.u, torch.randn(2, 6), torch.randn(2), torch.randn(2, 11, 3), torch.randn(2, 3)]
    leaves = [x.double().requires_grad_() for x in [*tensors, case.state]]

    def run(
        u: Tensor, W: Tensor, b: Tensor, x: Tensor, V: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return legendre_projection(
            u,
            case.Ad,
            case.Bd,
            W,
            relu=relu,
            bias=b,
            x=x,
            x_weight=V,
            state=state,
            lens=case.lens,
            chunk_size=2,
        )

    assert torch.autograd.gradcheck(run, leaves)


@settings(max_examples=30, deadline=None)
@given(cases(work=3e5), st.sampled_from([1, 4, 16, 37]), st.sampled_from([*FORMS, "auto"]))
def test_streaming_equals_offline(case: Case, chunk: int, form: str) -> None:
    case.lens = torch.full_like(case.lens, case.u.shape[1])
    whole, end = case.run(form)
    pieces, state = [], case.state
    for part in case.u[:, :160].split(chunk, dim=1):
        lens = torch.full_like(case.lens, part.shape[1])
        own = Case(case.Ad, case.Bd, part, lens, state, case.readout, case.skip)
        y, state = own.run(form)
        pieces.append(y)
    assert error(torch.cat(pieces, 1), whole[:, :160]) < 1e-5
    if case.u.shape[1] <= 160:
        torch.testing.assert_close(state, end, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_padding_is_never_read(form: str) -> None:
    case = make(6, [20.0], 50)
    clean, end = case.run(form)
    for n, length in enumerate(case.lens.tolist()):
        case.u[n, length:] = float("nan")
    dirty, dirty_end = case.run(form)
    assert torch.equal(clean, dirty) and torch.equal(end, dirty_end)
    y, _ = legendre_projection(case.u.float(), case.Ad, case.Bd, torch.randn(3, 12), lens=case.lens)
    assert bool(torch.isfinite(y).all())


@pytest.mark.parametrize("form", FORMS)
def test_no_frames_leave_the_state(form: str) -> None:
    case = make(4, [10.0], 1)
    case.u, case.lens = case.u[:, :0], torch.zeros(3, dtype=torch.long)
    y, state = case.run(form)
    assert y.shape == (3, 0, 2) and torch.equal(state, case.state.float())
    y, state = legendre_projection(case.u.float(), case.Ad, case.Bd, torch.randn(3, 8))
    assert y.shape == (3, 0, 3) and not state.any()


@pytest.mark.parametrize("form", [*FAST, "projection"])
def test_what_is_kept_for_the_gradient_grows_linearly(form: str) -> None:
    Ad, Bd = discretize(16, torch.tensor([40.0]))

    def kept(T: int) -> int:
        u = torch.randn(2, T, 3, requires_grad=True)
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.data_ptr()] = x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            if form == "projection":
                legendre_projection(u, Ad, Bd, torch.randn(8, 48, requires_grad=True))
            else:
                legendre_memory(u, Ad, Bd, readout=torch.randn(3, 16), form=form)
        return sum(sizes.values())

    assert kept(3000) <= 3.01 * kept(1000)


def check_is_lmu(memory: LegendreMemory) -> None:
    """Step with A and B of the stated theta, discretised here, and compare with the module."""
    A, B = legendre_system(memory.order)
    joint = torch.zeros(memory.order + 1, memory.order + 1, dtype=torch.float64)
    joint[:-1, :-1], joint[:-1, -1] = A, B
    held = [torch.linalg.matrix_exp(joint / x) for x in memory.theta.detach().double()]
    case = Case(
        torch.stack([x[:-1, :-1] for x in held]),
        torch.stack([x[:-1, -1] for x in held]),
        torch.randn(2, 90, memory.channels).double(),
        torch.tensor([90, 31]),
        torch.randn(2, memory.channels, memory.order).double(),
        torch.zeros(memory.channels, memory.order)
        if memory.readout is None
        else memory.readout.detach(),
        torch.zeros(memory.channels) if memory.skip is None else memory.skip.detach(),
    )
    m, end = case.scan()
    y, state = memory(case.u.float(), case.lens, case.state.float())
    wanted = m if memory.readout is None else case.outputs(m)
    assert error(y, wanted) < 5e-6 and error(state, end) < 5e-6


@pytest.mark.parametrize("form", [*FORMS, "auto"])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("readout", [False, True])
def test_module_is_an_lmu(form: str, trainable: bool, readout: bool) -> None:
    memory = LegendreMemory(
        6, 8, [3.0, 700.5], readout=readout, trainable_theta=trainable, form=form
    )
    check_is_lmu(memory)
    if trainable:
        with torch.no_grad():
            memory.log_theta += 0.2
        check_is_lmu(memory)
    else:
        other = LegendreMemory(6, 8, [5.0, 30.0], readout=readout)
        memory.load_state_dict(other.state_dict())
        assert memory.theta.tolist() == [5.0, 30.0]
        check_is_lmu(memory)


def test_the_check_notices_a_memory_that_is_not_one() -> None:
    memory = LegendreMemory(2, 4, 9.0)
    memory.system = lambda: discretize(4, torch.tensor([9.1]))  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        check_is_lmu(memory)


def test_trained_theta_stays_in_bounds_and_gets_a_gradient() -> None:
    memory = LegendreMemory(4, 4, [2.0, 50.0], trainable_theta=True, min_theta=2.0, max_theta=60.0)
    optimizer = torch.optim.SGD(memory.parameters(), lr=10.0)
    for _ in range(3):
        memory(torch.randn(2, 40, 4))[0].square().sum().backward()
        assert memory.log_theta.grad is not None and bool(memory.log_theta.grad.any())
        optimizer.step()
    assert bool((memory.theta >= 1.999).all()) and bool((memory.theta <= 60.001).all())


def test_a_module_in_half_precision_keeps_its_windows() -> None:
    memory = LegendreMemory(2, 4, 1001.0).to(torch.bfloat16)
    assert memory.theta.tolist() == [1001.0]
    y, state = memory(torch.randn(1, 5, 2).bfloat16())
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32


def test_white_input_keeps_its_variance_through_a_new_readout() -> None:
    torch.manual_seed(0)
    memory = LegendreMemory(64, 8, [16.0, 100.0], skip=False)
    y, _ = memory(torch.randn(1, 4000, 64))
    assert 0.7 < float(y[:, 500:].detach().std()) < 1.4


def test_operators_are_kept_with_their_matrices_and_dropped_with_them() -> None:
    gc.collect()
    before = len(operators._CACHE)
    Ad, Bd = discretize(4, torch.tensor([8.0]))
    first = operators.chunk_operators(Ad, Bd, 5, torch.float32)
    assert operators.chunk_operators(Ad, Bd, 5, torch.float32) is first
    Bd.mul_(2)
    changed = operators.chunk_operators(Ad, Bd, 5, torch.float32)
    torch.testing.assert_close(changed.impulse, 2 * first.impulse)
    assert len(operators._CACHE) == before + 1
    del Ad
    gc.collect()
    assert len(operators._CACHE) == before


@pytest.mark.parametrize("form", [*FORMS, "auto"])
@pytest.mark.parametrize("readout", [False, True])
def test_training_after_inference_mode(form: str, readout: bool) -> None:
    memory = LegendreMemory(2, 4, 9.0, readout=readout, form=form)
    u = torch.randn(1, 20, 2)
    weight = torch.randn(3, 8, requires_grad=True)
    with torch.inference_mode():
        before, _ = memory(u)
        projected, _ = legendre_projection(u, *memory.system(), weight)
    u.requires_grad_()
    after, _ = memory(u)
    again, _ = legendre_projection(u, *memory.system(), weight)
    (after.sum() + again.sum()).backward()
    assert u.grad is not None
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(again, projected)


def test_a_changed_readout_is_noticed_without_gradients() -> None:
    memory = LegendreMemory(40, 4, 9.0)
    u = torch.randn(1, 20, 40)
    with torch.no_grad():
        first, _ = memory(u)
        memory.readout.mul_(2.0)
        memory.skip.mul_(2.0)
        torch.testing.assert_close(memory(u)[0], 2 * first)
        memory.readout.data = memory.readout.data / 2
        memory.skip.data = memory.skip.data / 2
        torch.testing.assert_close(memory(u)[0], first)
        memory.readout.data.mul_(3.0)  # changes no version counter
        memory.skip.data.mul_(3.0)
        torch.testing.assert_close(memory(u)[0], 3 * first)


def test_without_a_kernel_torch_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(5, [12.0], 40)
    with_kernel, _ = case.run("auto")
    monkeypatch.setattr(memory_module, "kernel_available", lambda: False)
    for form in ("auto", "compiled"):
        torch.testing.assert_close(case.run(form)[0], with_kernel, rtol=1e-5, atol=1e-5)


def test_auto_takes_what_was_measured_fastest() -> None:
    def chosen(Q: int, T: int, *, readout: bool = True, state: bool = False) -> str:
        u, (Ad, Bd) = torch.zeros(1, T, 2), discretize(Q, torch.tensor([40.0]))
        return memory_module._chosen(
            "auto",
            u,
            Ad,
            Bd,
            torch.ones(2, Q) if readout else None,
            torch.zeros(1, 2, Q) if state else None,
        )

    fused = "compiled" if memory_module.kernel_available() else "chunked"
    assert [chosen(Q, 200) for Q in (8, 64, 65, 256)] == [fused, fused, "fft", "fft"]
    assert [chosen(256, T) for T in (63, 64, 10000, 10001)] == ["chunked", "fft", "fft", "chunked"]
    assert chosen(256, 200, state=True) == chosen(8, 200, readout=False) == "chunked"


def test_bad_calls_are_named() -> None:
    Ad, Bd = discretize(4, torch.tensor([8.0, 9.0]))
    u = torch.randn(2, 5, 6)
    for call in (
        lambda: legendre_memory(u[0], Ad, Bd),
        lambda: legendre_memory(u[..., :5], Ad, Bd),
        lambda: legendre_memory(u, Ad, Bd, form="magic"),
        lambda: legendre_memory(u, Ad, Bd, skip=torch.ones(6)),
        lambda: legendre_memory(u, Ad, Bd, readout=torch.ones(6, 5)),
        lambda: legendre_memory(u, Ad, Bd, state=torch.zeros(2, 6, 3)),
        lambda: legendre_memory(u, Ad, Bd, lens=torch.tensor([5])),
        lambda: legendre_projection(u, Ad, Bd, torch.ones(3, 23)),
        lambda: LegendreMemory(5, 4, [8.0, 9.0]),
        lambda: LegendreMemory(4, 4, [0.5]),
        lambda: LegendreMemory(4, 4, 8.0, form="magic"),
    ):
        with pytest.raises(LmuError):
            call()
