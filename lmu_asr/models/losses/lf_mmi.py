"""Lattice-free MMI over the CTC topology: the reference against every token sequence.

The loss is ``-log p(reference) = log Z - log(P(reference) sum of its paths)``, where a path's weight is
the product of its frames' posteriors and Z sums over the paths of all token sequences, each weighted
by an n-gram model of tokens (Povey et al. 2016; Hadian et al. 2018 without alignments; Xiang and Ou
2019 with the CTC topology, there CTC-CRF). Unlike CTC it does not count frames as independent, and
what the n-gram model knows need not be learnt again by the network.

The n-gram model is dense: a state is the last ``order - 1`` tokens, and whether a blank came after
them, so one frame of the forward or backward pass is a few products of matrices.

Shapes: N batch, T frames, V tokens with the blank 0, which stands for the sentence's start in
histories; A histories before the last token: V for trigrams, 1 for bigrams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmu_asr.errors import ConfigError
from lmu_asr.lang.ngram import BOS, EOS, train_token_ngram

RUNS_WITH = {"model.ctc.loss": ("lf_mmi",)}

LARGEST = 2**24  # entries of a dense model


class TokenModel:
    """A dense n-gram model of token sequences, with sentence ends.

    Args:
        sequences: token ids of the training transcripts.
        vocab_size: V.
        order: 2 or 3.

    Attributes:
        probs: ``(A, V, V)`` float32, ``probs[a, b, c]`` is p(c | a b); none of the blank.
        ends: ``(A, V)`` float32, p(end | a b).

    Raises:
        ConfigError: a dense model of so many tokens is too large.
        LangError: no sequence at all.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], vocab_size: int, order: int) -> None:
        if vocab_size**order > LARGEST:
            raise ConfigError(
                f"model.ctc.mmi_order={order}: {vocab_size} tokens to the power of {order} are too many; "
                f"{'use model.ctc.mmi_order=2' if order > 2 else 'use fewer tokens'}"
            )
        self.order = order
        lines = ([str(token) for token in sequence] for sequence in sequences)
        model = train_token_ngram(lines, order)
        known = [model.ids.get(str(token), 0) for token in range(vocab_size)]  # 0: unknown
        known[0] = model.ids[BOS]
        known_or_end = np.array([*known[1:], model.ids[EOS]])
        before = range(vocab_size) if order == 3 else [0]
        rows = np.zeros((len(before), vocab_size, vocab_size))
        for a in before:
            for b in range(vocab_size):
                if a and not b:
                    continue  # nothing comes before the start
                past = [known[a] if b else -1, known[b]][3 - order :]
                histories = np.tile(np.array(past), (len(known_or_end), 1))
                rows[a, b] = 10.0 ** model.conditional(histories, known_or_end)
        sums = rows.sum(axis=2, keepdims=True)
        # normalised again: tokens unseen in training share the entry of the unknown
        rows = np.divide(rows, sums, out=rows, where=sums > 0)
        table = torch.from_numpy(rows).float()  # (A, V, V): tokens 1 .. V-1, then the end
        self.ends = table[:, :, -1].contiguous()
        self.probs = torch.cat([torch.zeros_like(table[:, :, :1]), table[:, :, :-1]], dim=2)

    def score(self, target: Sequence[int]) -> float:
        """Natural log-probability of a token sequence with its end."""
        tokens = torch.tensor([0, 0, *target])
        a, b = tokens[:-1] * (self.order == 3), tokens[1:]
        each = self.probs[a[:-1], b[:-1], tokens[2:]].double().log().sum()
        return float(each + self.ends[a[-1], b[-1]].double().log())


class Denominator:
    """Sums over the paths of all token sequences.

    A state is a history ``(a, b)`` and whether the last frame was inside b (0) or a blank after it
    (1). The start has ``a = b = 0`` and counts as after a blank.

    Args:
        model: the n-gram model; it is moved to the device of what is summed.
    """

    def __init__(self, model: TokenModel) -> None:
        self.model = model
        self.trigram = model.order == 3
        self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        probs = self.model.probs.to(device).clone()
        self.device, self.ends = device, self.model.ends.to(device)
        repeats = probs.diagonal(dim1=1, dim2=2)
        self.again = repeats.clone()  # (A, V), p(b | a b): needs a blank between
        # without a blank between a repeat is the same token, so it has no arc of its own here
        repeats.zero_()
        self.forth = probs.transpose(0, 1).contiguous() if self.trigram else probs[0]  # (b, a, c)
        self.back = self.forth.transpose(-1, -2).contiguous()

    def log_sum(self, log_probs: Tensor, lens: Tensor) -> Tensor:
        """Return log Z, ``(N,)`` float32 with a gradient.

        Args:
            log_probs: ``(N, T, V)`` float32.
            lens: ``(N,)`` int64, frames of each utterance, at least 1.
        """
        if self.device != log_probs.device:
            self._move(log_probs.device)
        found: Tensor = _LogSum.apply(log_probs, lens.to(log_probs.device), self)
        return found

    def forward(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Forward sums, each frame's divided by their sum.

        Args:
            probs: ``(T, N, V)``.

        Returns:
            ``(T, 2, N, A, V)``, and ``(T, N)`` natural logarithms of the divisors.
        """
        T, N, _ = probs.shape
        alphas = probs.new_empty(T, 2, N, *self.ends.shape)
        sums = probs.new_empty(T, N)
        tokens, blank = _split(probs)
        inside, after = probs.new_zeros(2, N, *self.ends.shape)
        after[:, 0, 0] = 1.0
        for t in range(T):
            total = inside + after
            entered = self._enter(total)
            self._repeats(entered).add_((after * self.again).sum(1))
            torch.mul(entered.add_(inside), tokens[t], out=alphas[t, 0])
            torch.mul(total, blank[t], out=alphas[t, 1])
            # scaled at every frame: products of thousands of posteriors underflow float32
            sums[t] = alphas[t].sum(dim=(0, 2, 3))
            inside, after = alphas[t].div_(sums[t, :, None, None])
        return alphas, sums.log()

    def occupancies(self, probs: Tensor, alphas: Tensor, lens: Tensor) -> Tensor:
        """Posteriors of tokens over frames, ``(T, N, V)``; 0 past the end of an utterance.

        Args:
            probs: ``(T, N, V)``.
            alphas: of :meth:`forward`.
            lens: ``(N,)``.
        """
        T = len(probs)
        result = torch.empty_like(probs)
        tokens, blank = _split(probs)
        frames = torch.arange(T, device=lens.device)[:, None]
        is_last = (frames == lens - 1)[..., None, None]  # (T, N, 1, 1)
        lasts = set((lens - 1).tolist())
        beta = self.ends.expand(2, len(lens), -1, -1)
        for t in range(T - 1, -1, -1):
            if t in lasts:
                # each utterance's backward pass begins at its own last frame
                beta = torch.where(is_last[t], self.ends, beta)
            states = alphas[t] * beta
            result[t] = states[0].sum(1)
            result[t, :, 0] = states[1].sum((1, 2))
            beta = self._earlier(beta, tokens[t], blank[t])
        # scales of both passes cancel here, so backward need not keep its divisors
        result /= result.sum(2, keepdim=True)
        return result.masked_fill((frames >= lens)[..., None], 0.0)

    def _earlier(self, beta: Tensor, tokens: Tensor, blank: Tensor) -> Tensor:
        """Backward sums ``(2, N, A, V)`` one frame earlier, divided by their sum."""
        kept = beta[0] * tokens
        onward = self._leave(kept).add_(beta[1] * blank)
        repeated = self.again * self._repeats(kept)[:, None]
        found = torch.stack([onward + kept, onward + repeated])
        return found.div_(found.sum(dim=(0, 2, 3))[:, None, None])

    def _enter(self, total: Tensor) -> Tensor:
        """Sums ``(N, A, V)`` that go from every state to another token."""
        if self.trigram:
            # (N, a, b) -> (b, N, a), times (b, a, c): the new history (b, c), back to (N, b, c)
            return torch.bmm(total.permute(2, 0, 1), self.forth).transpose(0, 1)
        return total @ self.forth

    def _leave(self, kept: Tensor) -> Tensor:
        """The transpose of :meth:`_enter`."""
        if self.trigram:
            # (N, b, c) -> (b, N, c), times (b, c, a), back to (N, a, b)
            return torch.bmm(kept.transpose(0, 1), self.back).permute(1, 2, 0)
        return kept @ self.back

    def _repeats(self, states: Tensor) -> Tensor:
        """The states ``(N, V)`` to which a repeated token leads, as a view."""
        return states.diagonal(dim1=1, dim2=2) if self.trigram else states[:, 0]


def _split(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens ``(T, N, 1, V)`` without the blank, and the blank ``(T, N, 1, 1)``."""
    tokens = probs.unsqueeze(2).clone()
    tokens[..., 0] = 0.0
    return tokens, probs[:, :, :1, None]


class _LogSum(torch.autograd.Function):
    """Log Z; its gradient are the occupancies."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lens: Tensor, denominator: Denominator) -> Tensor:
        probs = log_probs.detach().float().exp().transpose(0, 1).contiguous()  # (T, N, V)
        alphas, logs = denominator.forward(probs)
        rows, last = torch.arange(len(lens), device=lens.device), lens - 1
        ends = (alphas[last, :, rows] * denominator.ends).sum((1, 2, 3))
        # computed here, so that the alphas (T, 2, N, A, V) need not live until the backward pass
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(denominator.occupancies(probs, alphas, lens).transpose(0, 1))
        return logs.cumsum(0)[last, rows] + ends.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (occupancies,) = ctx.saved_tensors
        return gradients[0][:, None, None] * occupancies, None, None


class LfMmiLoss:
    """The loss of every utterance, with a share of CTC.

    Args:
        sequences: token ids of the training transcripts.
        vocab_size: V.
        order: 2 or 3, of the n-gram model.
        ctc: negative log-probability of each utterance by CTC.
        ctc_share: what is added of it.
    """

    def __init__(
        self,
        sequences: Iterable[Sequence[int]],
        vocab_size: int,
        order: int,
        ctc: Callable[[Tensor, Tensor, Sequence[Sequence[int]]], Tensor],
        ctc_share: float,
    ) -> None:
        self.model = TokenModel(sequences, vocab_size, order)
        self.denominator = Denominator(self.model)
        self.ctc, self.ctc_share = ctc, ctc_share

    def __call__(self, log_probs: Tensor, lens: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """Return ``(N,)`` float32; arguments as of :func:`lmu_asr.models.losses.ctc.ctc_loss`."""
        log_probs = log_probs.float()
        ctc = self.ctc(log_probs, lens, targets)
        scores = torch.tensor([self.model.score(target) for target in targets]).to(ctc.device)
        # CTC is the numerator, -log of the reference's paths, and the added share at once
        return (1.0 + self.ctc_share) * ctc - scores + self.denominator.log_sum(log_probs, lens)
