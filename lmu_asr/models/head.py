"""The seam of every head: what training, validation, decoding and streams ask of one.

A head turns encoder outputs into a loss and into hypotheses. Each is one file of
:mod:`lmu_asr.models.heads`; nothing else knows what it computes.

Legend: N batch, T' frames after subsampling, D model width, S output values of a frame.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from lmu_asr.config import Config, ModelConfig


class Tokens(Protocol):
    """What training asks of a lang directory."""

    unit: str

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; LangError where it has a symbol that no token spells."""

    def decode(self, ids: Iterable[int]) -> str:
        """Words (phones, where these are the tokens) of token ids."""


@dataclass(frozen=True)
class Targets:
    """What a loss compares outputs with: the targets of N utterances, and their transcripts."""

    tokens: Sequence[Sequence[int]]
    texts: Sequence[str] = field(default_factory=tuple)


class Head(nn.Module, ABC):
    """Base of all heads: the defaults are those of a head over frame-wise token scores.

    Attributes:
        methods: the searches that serve it, rows of :mod:`lmu_asr.decoding.methods`.
        scores_frames: whether its outputs are log-probabilities of tokens at each frame, blank 0,
            which searches over graphs and prefixes read.
        views: augmented views of each utterance in a training batch.
        taps: inner encoder layers (from 1) that it also reads in training.
        by_loss: the validation loss, not the greedy error rate, chooses the best epoch.
        unmeasured: why the memory of a step cannot be told from frames alone; empty: it can.
        references: name and SHA-256 of each part that :meth:`hold` keeps.
    """

    methods: tuple[str, ...] = ("greedy",)
    scores_frames = False
    views = 1
    taps: tuple[int, ...] = ()
    by_loss = False
    unmeasured = ""

    def __init__(self) -> None:
        super().__init__()
        self.references: dict[str, str] = {}

    def prepare(self, config: Config, lang: Tokens, texts: Iterable[str]) -> None:
        """Make what the training loss needs, once before training.

        Args:
            config: the resolved configuration.
            lang: tokens, tokenizer and lexicon.
            texts: the training transcripts; read them only where the loss needs them.
        """

    def begin_step(self, step: int) -> None:
        """Hear that optimiser step ``step`` (from 1) begins, for losses that change over time."""

    def targets(self, text: str, lang: Tokens) -> list[int]:
        """Target tokens of a transcript.

        Raises:
            LangError: the transcript has no target.
        """
        return lang.encode(text)

    def refusal(self, target: Sequence[int], frames: int) -> str | None:
        """Why an utterance of ``frames`` encoder frames cannot be learnt, or None."""
        return None if target else "empty text"

    @abstractmethod
    def forward(self, encoded: Tensor) -> Tensor:
        """Map encoder outputs (N, T', D) to what searches read of each frame, (N, T', S)."""

    @abstractmethod
    def loss(self, outputs: Tensor, lens: Tensor, targets: Targets) -> Tensor:
        """Loss of each utterance, (N,) float32, summed over the utterance.

        In training mode ``outputs`` and ``lens`` have ``(1 + len(taps)) * views * N`` rows: the
        last layer's first, then those of each tap; within these the first view of all, then the
        second. In evaluation mode they have N rows.
        """

    def init_state(self, n: int) -> Any:
        """State of greedy decoding of ``n`` streams before their first frame."""
        return None

    @abstractmethod
    def extend(self, outputs: Tensor, lens: Tensor, state: Any) -> tuple[list[list[int]], Any]:
        """Decode the next frames of each stream greedily: their tokens, and the state after them."""

    @torch.no_grad()
    def greedy(self, outputs: Tensor, lens: Tensor) -> list[list[int]]:
        """Greedy hypotheses of whole utterances: tokens of each row of ``outputs`` (N, T', S)."""
        return self.extend(outputs, lens, self.init_state(len(outputs)))[0]

    def train(self, mode: bool = True) -> Head:
        """Set the mode of training; held parts stay in that of evaluation, without dropout."""
        super().train(mode)
        for name in self.references:
            self.get_submodule(name).eval()
        return self

    def hold(self, name: str, module: nn.Module, sha256: str) -> None:
        """Add a part that is neither trained nor saved: runs and checkpoints know it by its hash.

        Args:
            name: attribute that the part becomes.
            module: the part, read from where its own files lie.
            sha256: of these files.
        """
        self.add_module(name, module.eval().requires_grad_(False))
        self.references[name] = sha256
        prefix = f"{name}."
        own = tuple(prefix + key for key in module.state_dict())

        def leave_out(_: nn.Module, values: dict[str, Any], before: str, __: Any) -> None:
            for key in [k for k in values if k.startswith(before + prefix)]:
                del values[key]

        def not_missed(_: nn.Module, found: Any) -> None:
            found.missing_keys[:] = [k for k in found.missing_keys if not k.endswith(own)]

        # hooks, so that checkpoints and strict loading need not know of such parts
        self._register_state_dict_hook(leave_out)
        self.register_load_state_dict_post_hook(not_missed)


def build_head(config: ModelConfig, vocab_size: int) -> Head:
    """Build the head that ``config`` describes for ``vocab_size`` tokens."""
    module = importlib.import_module(f"lmu_asr.models.heads.{config.head}")
    return cast(Head, module.build(config, config.head_options, vocab_size))
