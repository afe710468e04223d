"""Training losses: CTC, of inner layers too, LF-MMI, label smoothing, consistency of two views (CR-CTC).

Shapes: N batch, T frames after subsampling, V vocabulary, S target length. All in float32, natural
logarithms, summed over frames: the trainer divides by the frames of the global batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmu_asr.config import Config
from lmu_asr.errors import ConfigError, LangError
from lmu_asr.lang.lang import Lang
from lmu_asr.training.lf_mmi import LfMmiLoss

CtcLoss = Callable[[Tensor, Tensor, Sequence[Sequence[int]]], Tensor]
"""``(log_probs (N, T, V), lens (N,), targets) -> (N,)``: negative log-probability of each utterance."""

TextLoss = Callable[[Tensor, Tensor, Sequence[str]], Tensor]
"""As :data:`CtcLoss`, with transcripts in place of tokens."""


def ctc_loss(log_probs: Tensor, lens: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """CTC loss of every utterance (Graves et al. 2006), blank 0, by torch.

    Args:
        log_probs: ``(N, T, V)`` float32, normalised.
        lens: ``(N,)`` int64, frames of each utterance.
        targets: N token sequences, without blanks.

    Returns:
        ``(N,)`` float32; infinite where an utterance has too few frames for its tokens.
    """
    flat = torch.tensor([token for target in targets for token in target], dtype=torch.int64)
    sizes = torch.tensor([len(target) for target in targets], dtype=torch.int64)
    return F.ctc_loss(
        log_probs.float().transpose(0, 1),  # (T, N, V)
        flat.to(log_probs.device, non_blocking=True),
        lens.to(log_probs.device),
        sizes.to(log_probs.device, non_blocking=True),
        blank=0,
        reduction="none",
    )


def annealed_ctc_loss(
    log_probs: Tensor, lens: Tensor, targets: Sequence[Sequence[int]], power: float
) -> Tensor:
    """CTC loss with the alignment of a flattened model (Ueda and Nakano 1998, deterministic annealing).

    The occupancies of tokens over frames come from the posteriors raised to ``power`` and
    normalised again; the loss is the cross-entropy towards them. 0 is a flat start: every
    alignment counts alike; at 1 the gradient is that of :func:`ctc_loss`.

    Args:
        log_probs: ``(N, T, V)`` float32, normalised.
        lens: ``(N,)`` int64, frames of each utterance.
        targets: N token sequences, without blanks.
        power: 0 to 1.

    Returns:
        ``(N,)`` float32: a bound on no likelihood, so comparable with CTC losses at power 1 alone.
    """
    flat = torch.log_softmax(power * log_probs.detach(), dim=-1).requires_grad_()
    with torch.enable_grad():
        losses = ctc_loss(flat, lens, targets)
    (gradient,) = torch.autograd.grad(losses.sum(), flat)
    occupancy = flat.detach().exp() - gradient  # torch's gradient is that of the softmax's input
    past = torch.arange(log_probs.shape[1], device=log_probs.device) >= lens[:, None].to(
        log_probs.device
    )
    cross = -(occupancy * log_probs).sum(dim=-1).masked_fill(past, 0.0).sum(dim=1)  # (N,)
    return cross.where(torch.isfinite(losses.detach()), losses.detach())


def get_ctc_loss(config: Config) -> CtcLoss:
    """Return the loss of ``train.loss``: torch's CTC, or that of k2 where ``graph.fsa`` asks for it."""
    if config.train.loss != "k2_ctc" and config.graph.fsa != "k2":
        return ctc_loss
    from lmu_asr.fsa.engine import get_engine

    engine = get_engine("k2")

    def engine_loss(log_probs: Tensor, lens: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        rows = [list(target) for target in targets]
        return engine.ctc_loss(log_probs.float(), lens, rows, reduction="none")

    return engine_loss


def get_graph_loss(lang: object) -> TextLoss:
    """Return CTC summed over all pronunciations of every word of ``lang``, by k2.

    Raises:
        ConfigError: k2 is not installed, or ``lang`` has no lexicon.
    """
    if not isinstance(lang, Lang):
        raise ConfigError("train.loss=graph_ctc needs a lang directory with a lexicon")
    from lmu_asr.fsa.engine import get_engine

    engine = get_engine("k2")

    def graph_loss(log_probs: Tensor, lens: Tensor, texts: Sequence[str]) -> Tensor:
        return engine.graph_ctc_loss(log_probs.float(), lens, texts, lang, reduction="none")

    return graph_loss


def get_lf_mmi_loss(config: Config, lang: object, ctc: CtcLoss, texts: Iterable[str]) -> CtcLoss:
    """Return LF-MMI with the n-gram model of tokens that ``texts`` give.

    Raises:
        ConfigError: the tokens are too many for ``train.mmi_order``, or ``lang`` has no tokenizer.
        LangError: there is no text.
    """
    if not isinstance(lang, Lang):
        raise ConfigError("train.loss=lf_mmi needs a lang directory")
    sequences = _encoded(lang, texts)
    options = config.train
    return LfMmiLoss(sequences, lang.vocab_size, options.mmi_order, ctc, options.mmi_ctc)


def _encoded(lang: Lang, texts: Iterable[str]) -> Iterator[list[int]]:
    """Tokens of the texts that have some; training leaves the others out, too."""
    for text in texts:
        with contextlib.suppress(LangError):
            yield lang.encode(text)


def make_training_loss(config: Config, lang: object, texts: Iterable[str] = ()) -> TrainingLoss:
    """Return the loss that the options ``train.loss cr_ctc inter_ctc label_smoothing`` ask for.

    Args:
        config: the resolved configuration.
        lang: tokens, tokenizer and lexicon.
        texts: the training transcripts, read where the loss needs them.
    """
    options = config.train
    ctc = get_ctc_loss(config)
    graph = get_graph_loss(lang) if options.loss == "graph_ctc" else None
    last = get_lf_mmi_loss(config, lang, ctc, texts) if options.loss == "lf_mmi" else None
    return TrainingLoss(
        ctc,
        options.cr_ctc,
        graph,
        options.inter_ctc,
        len(inter_ctc_layers(config)),
        options.label_smoothing,
        last,
    )


def inter_ctc_layers(config: Config) -> tuple[int, ...]:
    """Inner layers (from 1, in order) whose CTC loss counts; none without ``train.inter_ctc``.

    Raises:
        ConfigError: a layer is not an inner one.
    """
    if config.train.inter_ctc == 0:
        return ()
    last = config.model.num_layers
    layers = sorted(set(config.train.inter_ctc_layers or [last // 2]))
    wrong = [layer for layer in layers if not 1 <= layer < last]
    if wrong:
        raise ConfigError(
            f"train.inter_ctc_layers={layers}: {wrong[0]} is no inner layer of model.num_layers={last}"
        )
    return tuple(layers)


def uniform_loss(log_probs: Tensor, lens: Tensor) -> Tensor:
    """Label smoothing for CTC: KL(model || uniform) = log V - entropy, summed over frames.

    Kim et al. 2018 (Improved training for online end-to-end speech recognition systems).

    Args:
        log_probs: ``(N, T, V)`` float32, normalised.
        lens: ``(N,)`` frames of each utterance; later frames do not count.

    Returns:
        ``(N,)`` float32.
    """
    V = log_probs.shape[2]
    per_frame = math.log(V) + (log_probs.exp() * log_probs).sum(dim=-1)  # (N, T)
    return per_frame.masked_fill(_past(log_probs, lens), 0.0).sum(dim=1)


def consistency_loss(log_probs: Tensor, other: Tensor, lens: Tensor) -> Tensor:
    """Consistency between the frame posteriors of two views of the same utterances.

    Half the sum of both Kullback-Leibler divergences, each towards the other view with its
    gradient stopped (Yao et al. 2024, CR-CTC: equation 5).

    Args:
        log_probs: ``(N, T, V)`` float32 of the first view.
        other: ``(N, T, V)`` float32 of the second view.
        lens: ``(N,)`` frames of each utterance; later frames do not count.

    Returns:
        ``(N,)`` float32, summed over frames.
    """
    total = _divergence(other, log_probs) + _divergence(log_probs, other)  # (N, T)
    return 0.5 * total.masked_fill(_past(log_probs, lens), 0.0).sum(dim=1)


def _past(log_probs: Tensor, lens: Tensor) -> Tensor:
    """(N, T), true past the end of each utterance."""
    return torch.arange(log_probs.shape[1], device=log_probs.device) >= lens[:, None]


def _divergence(target: Tensor, log_probs: Tensor) -> Tensor:
    """KL(target || model) of every frame ``(N, T)``; no gradient reaches ``target``."""
    return F.kl_div(log_probs, target.detach(), reduction="none", log_target=True).sum(dim=-1)


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
