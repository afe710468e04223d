"""The loss of a training batch under CTC: of views and inner layers, with what is added to it.

Shapes: N batch, T frames after subsampling, V vocabulary. In float32, natural logarithms, summed
over frames: the trainer divides by the frames of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmu_asr.models.losses.ctc import annealed_ctc_loss, consistency_loss, uniform_loss

CtcLoss = Callable[[Tensor, Tensor, Sequence[Sequence[int]]], Tensor]
"""``(log_probs (N, T, V), lens (N,), targets) -> (N,)``: negative log-probability of each utterance."""

TextLoss = Callable[[Tensor, Tensor, Sequence[str]], Tensor]
"""As :data:`CtcLoss`, with transcripts in place of tokens."""


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of one model call, per utterance.

    Args:
        ctc: CTC loss of each utterance.
        cr_ctc: weight of the consistency loss; 0 means one view, else the batch holds the first
            views and then the second views of the same utterances.
        graph: loss of each transcript, in place of ``ctc`` in training; None: ``ctc``.
        inter_ctc: share that the mean loss of the inner outputs has (Lee and Watanabe 2021).
        taps: inner outputs; their rows follow those of the last layer.
        label_smoothing: share of :func:`uniform_loss` in the CTC loss of each output.
        last: loss of the last layer's output, in place of ``ctc``; None: ``ctc``.
    """

    ctc: CtcLoss
    cr_ctc: float = 0.0
    graph: TextLoss | None = None
    inter_ctc: float = 0.0
    taps: int = 0
    label_smoothing: float = 0.0
    last: CtcLoss | None = None

    @property
    def views(self) -> int:
        """Augmented views of each utterance in a batch."""
        return 2 if self.cr_ctc > 0 else 1

    def __call__(
        self,
        log_probs: Tensor,
        lens: Tensor,
        targets: Sequence[Sequence[int]],
        texts: Sequence[str] = (),
        power: float = 1.0,
    ) -> Tensor:
        """Return ``(N,)`` losses.

        Args:
            log_probs: ``((1 + taps) * views * N, T, V)``.
            lens: as many.
            targets: N token sequences.
            texts: N transcripts, for ``graph``.
            power: below 1, :func:`annealed_ctc_loss` takes the place of all others.
        """
        outputs = log_probs.chunk(1 + self.taps)  # each (views * N, T, V)
        # every tap has the same lengths, so those of the last layer serve all
        lens = lens[: len(outputs[0])]
        rules = [self.last or self.ctc] + [self.ctc] * self.taps
        losses = [
            self._of_views(rule, output, lens, targets, texts, power)
            for rule, output in zip(rules, outputs, strict=True)
        ]
        loss = losses[0]
        if self.taps:
            inner = sum(losses[1:], torch.zeros_like(loss)) / self.taps
            loss = (1.0 - self.inter_ctc) * loss + self.inter_ctc * inner
        if self.views == 1:
            return loss
        ours, theirs = outputs[0].chunk(2)
        consistency = consistency_loss(ours, theirs, lens[: len(targets)])
        return loss + self.cr_ctc * consistency

    def _of_views(
        self,
        rule: CtcLoss,
        log_probs: Tensor,
        lens: Tensor,
        targets: Sequence[Sequence[int]],
        texts: Sequence[str],
        power: float,
    ) -> Tensor:
        """``(N,)`` mean over the views of one output's loss."""
        if power < 1.0:
            both = annealed_ctc_loss(log_probs, lens, [*targets] * self.views, power)
        elif self.graph is not None:
            both = self.graph(log_probs, lens, [*texts] * self.views)  # (views * N,)
        else:
            both = rule(log_probs, lens, [*targets] * self.views)
        if self.label_smoothing:
            smooth = uniform_loss(log_probs, lens)
            both = (1.0 - self.label_smoothing) * both + self.label_smoothing * smooth
        if self.views == 1:
            return both
        first, second = both.chunk(2)
        return 0.5 * (first + second)
