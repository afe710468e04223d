"""The published cell, the parallel LMU and the gated block: equations, and that each is an LMU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmu_asr.models.encoder import build_encoder
from lmu_asr.models.gated_lmu import DepthwiseConv, GatedLmu
from lmu_asr.models.inference.quant import pack_for_streaming, quantize
from lmu_asr.models.lmu import LMU, LMUCell, ParallelLMU
from lmu_asr.models.memory.module import LegendreMemory
from lmu_asr.models.system import SpeechModel, build_model
from tests.models.small import model_config

FORMS = ["auto", "sequential", "fft", "chunked"]


def legendre(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """A and B as printed by Voelker et al. 2019, held for a frame by a series in float64."""
    A = torch.zeros(order, order, dtype=torch.float64)
    B = torch.zeros(order, 1, dtype=torch.float64)
    for q in range(order):
        B[q] = (2 * q + 1) * (-1) ** q
        for k in range(order):
            A[q, k] = (2 * q + 1) * (-1 if q < k else (-1) ** (q - k + 1))
    A, B = A / theta, B / theta
    steps = 2**14  # (I + A/s + A^2/2s^2 + A^3/6s^3)^s by squaring
    eye = torch.eye(order + 1, dtype=torch.float64)
    M = torch.zeros_like(eye)
    M[:order, :order], M[:order, order:] = A / steps, B / steps
    E = eye + M + M @ M / 2 + M @ M @ M / 6 + M @ M @ M @ M / 24
    for _ in range(14):
        E = E @ E
    return E[:order, :order], E[:order, order:]


def test_cell_follows_the_published_equations() -> None:
    torch.manual_seed(0)
    cell = LMUCell(3, 4, 6, theta=12.0).double()
    nn.init.normal_(cell.e_m, std=0.1)
    A, B = legendre(6, 12.0)
    x, h, m = torch.randn(2, 3).double(), torch.randn(2, 4).double(), torch.randn(2, 6).double()
    u = x @ cell.e_x.T + h @ cell.e_h.T + m @ cell.e_m.T
    m1 = m @ A.T + u @ B.T
    h1 = torch.tanh(x @ cell.W_x.T + h @ cell.W_h.T + m1 @ cell.W_m.T)
    h2, m2 = cell(x, (h, m))
    torch.testing.assert_close(m2, m1, atol=1e-6, rtol=1e-6)  # A and B are stored in float32
    torch.testing.assert_close(h2, h1, atol=1e-6, rtol=1e-6)


def test_cell_has_the_published_names_and_shapes() -> None:
    shapes = {k: tuple(v.shape) for k, v in LMUCell(3, 4, 6, 12.0).named_parameters()}
    assert shapes == {
        "e_x": (1, 3), "e_h": (1, 4), "e_m": (1, 6),
        "W_x": (4, 3), "W_h": (4, 4), "W_m": (4, 6),
    }  # fmt: skip


def test_folded_sequence_equals_the_cell_frame_by_frame_with_gradients() -> None:
    torch.manual_seed(1)
    lmu = LMU(3, 4, 6, 12.0).double()
    nn.init.normal_(lmu.cell.e_m, std=0.1)
    x = torch.randn(2, 15, 3, dtype=torch.float64, requires_grad=True)
    state = (torch.randn(2, 4).double(), torch.randn(2, 6).double())
    y, (h, m) = lmu(x, state)
    own, rows = state, []
    for frame in x.unbind(1):
        own = lmu.cell(frame, own)
        rows.append(own[0])
    expected = torch.stack(rows, dim=1)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close((h, m), own)
    inputs = [x, *lmu.parameters()]
    weight = torch.randn_like(y)
    folded = torch.autograd.grad((y * weight).sum(), inputs)
    plain = torch.autograd.grad((expected * weight).sum(), inputs)
    torch.testing.assert_close(folded, plain)


@pytest.mark.parametrize("form", FORMS)
def test_parallel_lmu_follows_its_equations(form: str) -> None:
    torch.manual_seed(2)
    lmu = ParallelLMU(3, 4, 6, theta=12.0, form=form).double()
    nn.init.normal_(lmu.b_u)
    nn.init.normal_(lmu.b_o)
    x = torch.randn(2, 25, 3, dtype=torch.float64)
    A, B = legendre(6, 12.0)
    root = (2 * torch.arange(6).double() + 1).sqrt()  # published m = root * orthonormal m
    m, rows = torch.zeros(2, 6).double(), []
    for frame in x.unbind(1):
        u = torch.relu(frame @ lmu.U_x.T + lmu.b_u)
        m = m @ A.T + u @ B.T
        rows.append(torch.relu((m / root) @ lmu.W_m.T + frame @ lmu.W_x.T + lmu.b_o))
    y, end = lmu(x)
    torch.testing.assert_close(y, torch.stack(rows, dim=1), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(end[:, 0], m / root, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gated_lmu_follows_its_equation(bidirectional: bool) -> None:
    torch.manual_seed(3)
    layer = GatedLmu(6, 4, 5, [3.0, 9.0], bidirectional=bidirectional).double()
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    u, gate = layer.value(x), layer.gate(x)

    def memory(own: LegendreMemory, u: Tensor) -> Tensor:
        columns = []
        for c in range(4):
            A, B = legendre(5, [3.0, 9.0][c // 2])
            root = (2 * torch.arange(5).double() + 1).sqrt()
            m, rows = torch.zeros(2, 5).double(), []
            for t in range(u.shape[1]):
                m = m @ A.T + u[:, t, c : c + 1] @ B.T
                rows.append((m / root) @ own.readout[c])  # type: ignore[index]
            columns.append(torch.stack(rows, dim=1))
        y = torch.stack(columns, dim=-1)
        return y if own.skip is None else y + own.skip * u

    y = memory(layer.memory, u)
    if layer.back is not None:
        y = y + memory(layer.back, u.flip(1)).flip(1)
    expected = layer.output(y * gate * torch.sigmoid(gate))
    torch.testing.assert_close(layer(x, None), expected, atol=1e-9, rtol=1e-9)


def test_lookahead_reads_the_memory_that_many_frames_later() -> None:
    torch.manual_seed(4)
    now, later = (GatedLmu(4, 4, 5, [8.0], lookahead=k) for k in (0, 3))
    later.load_state_dict(now.state_dict())
    x = torch.randn(1, 20, 4)
    u, gate = now.value(x), now.gate(x)
    ahead = now.memory(torch.cat([u, torch.zeros(1, 3, 4)], dim=1))[0][:, 3:]
    expected = now.output(ahead * torch.nn.functional.silu(gate))
    torch.testing.assert_close(later(x, None), expected)
    assert (now(x, None) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("causal", [True, False])
def test_depthwise_convolution(causal: bool) -> None:
    torch.manual_seed(5)
    conv = DepthwiseConv(2, 3, causal)
    u = torch.randn(1, 7, 2)
    shift = 2 if causal else 1
    for c in range(2):
        for t in range(7):
            around = [(t - shift + j, j) for j in range(3)]
            sum_ = sum(conv.weight[c, 0, j] * u[0, s, c] for s, j in around if 0 <= s < 7)
            torch.testing.assert_close(conv(u)[0, t, c], sum_ + u[0, t, c])


def memories(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (LegendreMemory, LMUCell))]


LMUS = [
    {"encoder": encoder, "bidirectional": both}
    for encoder in ("lmu", "lmu_cell", "lmu_parallel")
    for both in (False, True)
] + [
    {"encoder": "lmu", "bidirectional": both, "trainable_theta": True} for both in (False, True)
] + [
    {"encoder": "lmu", "bidirectional": False, "conv_kernel": 3},
    {"encoder": "lmu", "bidirectional": False, "lookahead": 2},
]  # fmt: skip


@pytest.mark.parametrize("variant", LMUS)
def test_honesty(variant: dict[str, Any]) -> None:
    """After training steps the state still obeys the Legendre A and B of the stated theta."""
    torch.manual_seed(6)
    config = model_config(
        dim=8, num_layers=2, thetas=[5.0, 20.0], memory_order=6, dropout=0.0, **variant
    )
    model = build_encoder(config, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 40, 5))[0].square().mean().backward()
        optimizer.step()
    found = memories(model)
    assert len(found) == 2 * (2 if config.bidirectional else 1)
    for memory in found:
        with torch.no_grad():
            check_obeys_legendre(memory)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.endswith((".A", ".B", ".Ad", ".Bd")) for name in trained)


@pytest.mark.parametrize("make", [pack_for_streaming, quantize])
@pytest.mark.parametrize("order", [5, 8, 16])
def test_honesty_of_the_compiled_stream(
    make: Callable[[SpeechModel], SpeechModel], order: int
) -> None:
    """The state that a packed block carries obeys the Legendre A and B, frame by frame."""
    torch.manual_seed(8)
    config = model_config(
        dim=8, num_layers=1, thetas=[5.0, 300.0], memory_order=order, bidirectional=False
    )
    block = make(build_model(config, 5, 7)).encoder.layers[0]
    x = torch.randn(1, 40, 8)
    u = block.mixer.value(block.mixer_norm(x))[0].double()  # (T, C)
    root = (2 * torch.arange(order).double() + 1).sqrt()
    m = torch.zeros(8, order).double()
    state = block.init_state(1, torch.device("cpu"), torch.float32)
    for t in range(40):
        _, state = block.step(x[:, t : t + 1], state)
        for c in range(8):
            A, B = legendre(order, [5.0, 300.0][c // 4])
            m[c] = A @ m[c] + B[:, 0] * u[t, c]
        torch.testing.assert_close(state[0][0][0].double(), m / root, atol=1e-5, rtol=1e-4)


def check_obeys_legendre(memory: nn.Module) -> None:
    u = torch.randn(1, 30, 4)
    root = (2 * torch.arange(6).double() + 1).sqrt()
    if isinstance(memory, LMUCell):
        A, B = legendre(6, memory.theta)
        h, m = torch.zeros(1, 8), torch.zeros(1, 6)
        for x in torch.randn(30, 1, 8).unbind(0):
            drive = x @ memory.e_x.T + h @ memory.e_h.T + m @ memory.e_m.T
            expected = m.double() @ A.T + drive.double() @ B.T
            h, m = memory(x, (h, m))
            torch.testing.assert_close(m.double(), expected, atol=1e-5, rtol=1e-4)
        return
    assert isinstance(memory, LegendreMemory)
    u = u.repeat(1, 1, memory.channels)[..., : memory.channels]
    per_group = memory.channels // len(memory.theta)
    _, state = memory(u)
    for c in range(memory.channels):
        A, B = legendre(6, float(memory.theta[c // per_group]))
        m = torch.zeros(6).double()
        for t in range(30):
            m = A @ m + B[:, 0] * u[0, t, c].double()
        torch.testing.assert_close(state[0, c].double(), m / root, atol=1e-5, rtol=1e-4)
