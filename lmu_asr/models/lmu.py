"""The published Legendre Memory Unit and its parallel form, alone and as encoder layers.

Legend: N batch, T frames, F input features, H hidden units, Q memory order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmu_asr.models.layers import init_linear
from lmu_asr.models.memory.module import LegendreMemory, discretize, legendre_projection
from lmu_asr.models.mixers import Mixer, State


class LMUCell(nn.Module):
    """One step of the LMU (Voelker, Kajic and Eliasmith 2019), equations and names as published.

    ``u = e_x.x + e_h.h + e_m.m``, ``m' = A m + B u``, ``h' = tanh(W_x x + W_h h + W_m m')``, with A
    and B of the Legendre delay system of ``theta`` frames in the published (unnormalised) basis,
    discretised by zero-order hold. No biases, as published.
    """

    A: Tensor
    B: Tensor

    def __init__(self, input_size: int, hidden_size: int, memory_size: int, theta: float) -> None:
        """``memory_size``: order Q; ``theta``: window in frames."""
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.memory_size, self.theta = memory_size, theta
        self.e_x = nn.Parameter(torch.empty(1, input_size))
        self.e_h = nn.Parameter(torch.empty(1, hidden_size))
        self.e_m = nn.Parameter(torch.zeros(1, memory_size))
        self.W_x = nn.Parameter(torch.empty(hidden_size, input_size))
        self.W_h = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.W_m = nn.Parameter(torch.empty(hidden_size, memory_size))
        A, B = published_system(memory_size, theta)
        # not saved: order and theta give it again
        self.register_buffer("A", A.float(), persistent=False)
        self.register_buffer("B", B.float(), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw encoders LeCun-uniform, kernels Xavier-normal; ``e_m`` is zero."""
        for encoder in (self.e_x, self.e_h):
            bound = (3.0 / encoder.shape[1]) ** 0.5
            nn.init.uniform_(encoder, -bound, bound)
        nn.init.zeros_(self.e_m)
        for kernel in (self.W_x, self.W_h, self.W_m):
            nn.init.xavier_normal_(kernel)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Take one frame x (N, F) and (h (N, H), m (N, Q)); return the next (h, m)."""
        h, m = state
        u = x @ self.e_x.T + h @ self.e_h.T + m @ self.e_m.T  # (N, 1)
        m = m @ self.A.T + u @ self.B.T
        return torch.tanh(x @ self.W_x.T + h @ self.W_h.T + m @ self.W_m.T), m

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return P (F, H + Q) and R (H + Q, H + Q): ``[a, m'] = x P + [h, m] R``, ``h' = tanh(a)``."""
        into_m = torch.cat([self.e_x, self.e_h, self.e_m], dim=1)  # (1, F + H + Q)
        into_m = self.B @ into_m  # (Q, F + H + Q)
        keep = torch.zeros_like(into_m)
        keep[:, -self.memory_size :] = self.A
        into_m = into_m + keep
        into_h = self.W_m @ into_m
        direct = torch.cat([self.W_x, self.W_h, torch.zeros_like(self.W_m)], dim=1)
        both = torch.cat([into_h + direct, into_m]).T  # (F + H + Q, H + Q)
        return both[: self.input_size], both[self.input_size :]


class LMU(nn.Module):
    """The LMU over whole sequences, ``(N, T, F) -> (N, T, H)``: one product a frame."""

    def __init__(self, input_size: int, hidden_size: int, memory_size: int, theta: float) -> None:
        """Arguments as of :class:`LMUCell`."""
        super().__init__()
        self.cell = LMUCell(input_size, hidden_size, memory_size, theta)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the hidden states (N, T, H) and the last (h (N, H), m (N, Q))."""
        H, Q = self.cell.hidden_size, self.cell.memory_size
        inputs, recurrent = self.cell.folded()
        if state is None:
            state = (x.new_zeros(x.shape[0], H), x.new_zeros(x.shape[0], Q))
        hm = torch.cat([*state], dim=1)
        outputs = []
        # the products of all inputs at once: only the recurrent one must go frame by frame
        for drive in (x @ inputs).unbind(1):
            a, m = torch.addmm(drive, hm, recurrent).split([H, Q], dim=1)
            h = torch.tanh(a)
            hm = torch.cat([h, m], dim=1)
            outputs.append(h)
        h, m = hm.split([H, Q], dim=1)
        return torch.stack(outputs, dim=1), (h, m)


class LmuCellMixer(Mixer):
    """The published LMU as an encoder layer, with a product back to the model width."""

    def __init__(
        self, dim: int, hidden: int, order: int, theta: float, out_scale: float = 1.0
    ) -> None:
        """``hidden``: H; ``order``: Q; ``theta``: window in frames."""
        super().__init__()
        self.lmu = LMU(dim, hidden, order, theta)
        self.output = nn.Linear(hidden, dim, bias=False)
        init_linear(self.output, out_scale)

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """See :meth:`Mixer.forward`."""
        return self.output(self.lmu(x)[0])

    def init_state(self, n: int, device: torch.device, dtype: torch.dtype) -> State:
        """Hidden state (n, H) and memory (n, Q), zero."""
        cell = self.lmu.cell
        sizes = (cell.hidden_size, cell.memory_size)
        return tuple(torch.zeros(n, size, device=device, dtype=dtype) for size in sizes)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Mixer.step`."""
        y, state = self.lmu(x, state)
        return self.output(y), state


class ParallelLMU(nn.Module):
    """The LMU without hidden recurrence (Chilkuri and Eliasmith 2021): all frames at once.

    ``u = relu(U_x x + b_u)``, ``m' = A m + B u``, ``o = relu(W_m m' + W_x x + b_o)``; the memory is
    kept in the orthonormal basis.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        memory_size: int,
        theta: float,
        form: str = "auto",
        trainable_theta: bool = False,
    ) -> None:
        """``memory_size``: order Q; ``theta``: window in frames; ``form``: see ``memory``."""
        super().__init__()
        self.memory = LegendreMemory(
            1, memory_size, theta,
            readout=False, skip=False, trainable_theta=trainable_theta, form=form,
        )  # fmt: skip
        self.U_x = nn.Parameter(torch.empty(1, input_size))
        self.b_u = nn.Parameter(torch.zeros(1))
        self.W_m = nn.Parameter(torch.empty(hidden_size, memory_size))
        self.W_x = nn.Parameter(torch.empty(hidden_size, input_size))
        self.b_o = nn.Parameter(torch.zeros(hidden_size))
        self.input_size, self.memory_size = input_size, memory_size
        for weight in (self.U_x, self.W_m, self.W_x):
            nn.init.normal_(weight, std=(2.0 / weight.shape[1]) ** 0.5)

    def forward(
        self, x: Tensor, lens: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs (N, T, H) and the memory (N, 1, Q) after each sequence's last frame."""
        u = torch.relu(x @ self.U_x.T + self.b_u)  # (N, T, 1)
        # the read-out W_m is folded into the chunks, so that (N, T, Q) is never formed
        if self.memory.form in ("auto", "chunked"):
            o, end = legendre_projection(
                u, *self.memory.system(), self.W_m, bias=self.b_o, x=x, x_weight=self.W_x,
                state=state, lens=lens, relu=True,
            )  # fmt: skip
            return o, end
        m, end = self.memory(u, lens, state)  # (N, T, 1, Q)
        return torch.relu(m.flatten(2) @ self.W_m.T + x @ self.W_x.T + self.b_o), end


class ParallelLmuMixer(Mixer):
    """The parallel LMU as an encoder layer, with a product back to the model width."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        order: int,
        theta: float,
        form: str = "auto",
        out_scale: float = 1.0,
        trainable_theta: bool = False,
    ) -> None:
        """``hidden``: H; ``order``: Q; ``theta``: window in frames, the first one where trained."""
        super().__init__()
        self.window = theta
        self.lmu = ParallelLMU(dim, hidden, order, theta, form, trainable_theta)
        self.output = nn.Linear(hidden, dim, bias=False)
        init_linear(self.output, out_scale)

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """See :meth:`Mixer.forward`."""
        return self.output(self.lmu(x)[0])

    def init_state(self, n: int, device: torch.device, dtype: torch.dtype) -> State:
        """Memory (n, 1, Q), zero."""
        return self.lmu.memory.init_state(n).to(device)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Mixer.step`."""
        y, state = self.lmu(x, None, state)
        return self.output(y), state


def published_system(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return A (Q, Q) and B (Q, 1), discrete, in the published unnormalised basis, float64."""
    Ad, Bd = discretize(order, torch.tensor([theta], dtype=torch.float64))
    # from the orthonormal basis back: coefficient q times sqrt(2q + 1)
    scale = (2.0 * torch.arange(order, dtype=torch.float64) + 1.0).sqrt()
    A = scale[:, None] * Ad[0].double() / scale[None, :]
    return A, (scale * Bd[0].double())[:, None]
