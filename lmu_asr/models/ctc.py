"""The CTC head, with all losses over frame-wise token posteriors.

Legend: N batch, T' frames after subsampling, D model width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lmu_asr.config import Config
from lmu_asr.errors import ConfigError, LangError
from lmu_asr.lang.lang import Lang, ctc_min_frames
from lmu_asr.models.head import Head, Targets, Tokens
from lmu_asr.models.layers import init_linear
from lmu_asr.models.losses.ctc import ctc_loss
from lmu_asr.models.losses.lf_mmi import LfMmiLoss
from lmu_asr.models.losses.training import CtcLoss, TextLoss, TrainingLoss


class CtcHead(Head):
    """Linear layer and log-softmax over the vocabulary; the blank is token 0 (Graves et al. 2006)."""

    methods = (
        "greedy",
        "prefix_beam",
        "H",
        "HL",
        "HLG",
        "nbest",
        "nbest_rescore",
        "lattice_rescore",
    )
    scores_frames = True

    def __init__(self, dim: int, vocab_size: int) -> None:
        """``dim``: D; ``vocab_size``: V, blank included."""
        super().__init__()
        self.linear = nn.Linear(dim, vocab_size)
        init_linear(self.linear, 0.5)
        self.rule = TrainingLoss(ctc_loss)
        self.anneal_steps, self.power = 0, 1.0

    def prepare(self, config: Config, lang: Tokens, texts: Iterable[str]) -> None:
        """Make the loss of ``model.ctc.loss``, and set views and taps.

        Raises:
            ConfigError: k2 is not installed, the lang directory lacks what the loss needs, or a
                layer of ``model.ctc.inter_ctc_layers`` is no inner one.
            LangError: ``model.ctc.loss=lf_mmi`` and there is no text.
        """
        options = config.model.head_options  # of lmu_asr.models.heads.ctc
        self.taps = inter_ctc_layers(config)
        self.anneal_steps = options.anneal_steps
        ctc = get_ctc_loss(config)
        graph = get_graph_loss(lang) if options.loss == "graph_ctc" else None
        mmi = get_lf_mmi_loss(config, lang, ctc, texts) if options.loss == "lf_mmi" else None
        self.rule = TrainingLoss(
            ctc,
            options.cr_ctc,
            graph,
            options.inter_ctc,
            len(self.taps),
            options.label_smoothing,
            mmi,
        )
        self.views, self.by_loss = self.rule.views, mmi is not None
        if graph is not None:
            self.unmeasured = (
                "memory of model.ctc.loss=graph_ctc follows the words, which no probe has"
            )

    def begin_step(self, step: int) -> None:
        """Anneal the alignments over the first ``model.ctc.anneal_steps`` steps."""
        # 1 from step anneal_steps + 1 on, where the annealed loss gives way to the plain one
        self.power = min(1.0, step / (self.anneal_steps + 1))

    def refusal(self, target: Sequence[int], frames: int) -> str | None:
        """CTC needs a frame for each token, and a blank between two alike."""
        least = ctc_min_frames(target)
        if frames < least:
            return f"{frames} frames after subsampling, but its text needs {least}"
        return super().refusal(target, frames)

    def forward(self, encoded: Tensor) -> Tensor:
        """Map (N, T', D) to log-probabilities (N, T', V), float32, base e."""
        return torch.log_softmax(self.linear(encoded).float(), dim=-1)

    def loss(self, outputs: Tensor, lens: Tensor, targets: Targets) -> Tensor:
        """Loss of each utterance, (N,) float32; infinite where it has too few frames."""
        # sums over thousands of paths lose their digits in bfloat16
        with torch.autocast(outputs.device.type, enabled=False):
            if self.training:
                return self.rule(outputs, lens, targets.tokens, targets.texts, self.power)
            # validation judges the last layer alone, without views, smoothing or annealing
            return (self.rule.last or self.rule.ctc)(outputs, lens, targets.tokens)

    def init_state(self, n: int) -> list[int]:
        """The last frame's best token of each stream: a repeat of it is the same token."""
        return [0] * n

    def extend(
        self, outputs: Tensor, lens: Tensor, state: list[int]
    ) -> tuple[list[list[int]], list[int]]:
        """Best token of each frame of ``outputs`` (N, T', V), repeats merged, blanks removed."""
        best = outputs.argmax(dim=-1).tolist()  # (N, T')
        rows = [row[:size] for row, size in zip(best, lens.tolist(), strict=True)]
        found = [
            [token for before, token in zip([last, *row], row) if token not in (0, before)]  # noqa: B905
            for last, row in zip(state, rows, strict=True)
        ]
        return found, [row[-1] if row else last for last, row in zip(state, rows, strict=True)]


def get_ctc_loss(config: Config) -> CtcLoss:
    """Return the loss of ``model.ctc.loss``: torch's CTC, or that of k2 where ``graph.fsa`` asks for it."""
    if config.model.head_options.loss != "k2_ctc" and config.graph.fsa != "k2":
        return ctc_loss
    from lmu_asr.fsa.engine import get_loss_engine

    engine = get_loss_engine()

    def engine_loss(log_probs: Tensor, lens: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        rows = [list(target) for target in targets]
        return engine.ctc_loss(log_probs.float(), lens, rows)

    return engine_loss


def get_graph_loss(lang: object) -> TextLoss:
    """Return CTC summed over all pronunciations of every word of ``lang``, by k2.

    Raises:
        ConfigError: k2 is not installed, or ``lang`` has no lexicon.
    """
    if not isinstance(lang, Lang):
        raise ConfigError("model.ctc.loss=graph_ctc needs a lang directory with a lexicon")
    from lmu_asr.fsa.engine import get_loss_engine

    engine = get_loss_engine()

    def graph_loss(log_probs: Tensor, lens: Tensor, texts: Sequence[str]) -> Tensor:
        return engine.graph_ctc_loss(log_probs.float(), lens, texts, lang)

    return graph_loss


def get_lf_mmi_loss(config: Config, lang: object, ctc: CtcLoss, texts: Iterable[str]) -> CtcLoss:
    """Return LF-MMI with the n-gram model of tokens that ``texts`` give.

    Raises:
        ConfigError: the tokens are too many for ``model.ctc.mmi_order``, or ``lang`` has no tokenizer.
        LangError: there is no text.
    """
    if not isinstance(lang, Lang):
        raise ConfigError("model.ctc.loss=lf_mmi needs a lang directory")
    sequences = _encoded(lang, texts)
    options = config.model.head_options  # of lmu_asr.models.heads.ctc
    return LfMmiLoss(sequences, lang.vocab_size, options.mmi_order, ctc, options.mmi_ctc)


def _encoded(lang: Lang, texts: Iterable[str]) -> Iterator[list[int]]:
    """Tokens of the texts that have some; training leaves the others out, too."""
    for text in texts:
        with contextlib.suppress(LangError):
            yield lang.encode(text)


def inter_ctc_layers(config: Config) -> tuple[int, ...]:
    """Inner layers (from 1, in order) whose CTC loss counts; none without ``model.ctc.inter_ctc``.

    Raises:
        ConfigError: a layer is not an inner one.
    """
    options = config.model.head_options  # of lmu_asr.models.heads.ctc
    if options.inter_ctc == 0:
        return ()
    last = config.model.num_layers
    layers = sorted(set(options.inter_ctc_layers or [last // 2]))
    wrong = [layer for layer in layers if not 1 <= layer < last]
    if wrong:
        raise ConfigError(
            f"model.ctc.inter_ctc_layers={layers}: {wrong[0]} is no inner layer of "
            f"model.num_layers={last}"
        )
    return tuple(layers)
