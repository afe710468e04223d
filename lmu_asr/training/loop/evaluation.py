"""Validation: loss and greedy word error rate of the development split, over all processes.

Shapes: N batch, T frames after subsampling, V vocabulary.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import kaldialign
import torch
from torch import Tensor, nn

from lmu_asr.data.batch import Batch
from lmu_asr.errors import LangError, TrainingError
from lmu_asr.models.head import Head, Targets, Tokens
from lmu_asr.training.loop.step import is_out_of_memory
from lmu_asr.training.parallel.processes import World


@dataclass(frozen=True)
class DevResult:
    """Validation of one set of weights.

    ``loss`` is per frame, ``wer`` a fraction: word errors, or token errors where tokens are phones.
    """

    loss: float
    wer: float
    utterances: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    lang: Tokens,
    world: World,
    precision: torch.dtype | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    together: bool = False,
) -> DevResult:
    """Evaluate ``model``; every process takes its share of the batches, all get the same result.

    ``heartbeat`` is called after every round of batches, in step in all processes; it may raise to
    stop. ``together``: a pass is a collective, so a process without a batch repeats another's, which
    does not count, and a batch that does not fit in memory is not split. Utterances without a finite
    loss (too short for their text) count for the error rate alone.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(5, dtype=torch.float64)  # loss, frames, errors, words, utterances
    try:
        for batches_of_round in _rounds(batches, world.world_size):
            # a slice, since the last round may have fewer batches than there are processes
            own = batches_of_round[world.rank : world.rank + 1]
            for batch in own or (batches_of_round[:1] if together else []):
                part = _Part(batch.features, batch.feature_lens, batch.texts)
                found = _evaluate_part(model, part, lang, world.device, precision, together)
                # a repeated batch is another process's: the pass was needed, its figures are not
                sums += found if own else 0.0 * found
            # once a round, since in training it is a collective
            heartbeat()
    finally:
        model.train(training)
    totals = world.all_reduce(sums.to(world.device))
    loss, frames, errors, words, utterances = totals.tolist()
    nan = math.nan
    return DevResult(
        loss / frames if frames else nan, errors / words if words else nan, int(utterances)
    )


def _rounds(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Batches with utterances, ``size`` at a time."""
    # every process sees the same batches, so all drop the same ones and stay in step
    filled = (batch for batch in batches if batch.ids)
    while found := list(itertools.islice(filled, size)):
        yield found


@dataclass(frozen=True)
class _Part:
    """Some utterances of a batch."""

    features: Tensor  # (N, T, F)
    feature_lens: Tensor  # (N,)
    texts: list[str]

    def halves(self) -> list[_Part]:
        middle = len(self.texts) // 2
        parts = slice(0, middle), slice(middle, None)
        return [_Part(self.features[p], self.feature_lens[p], self.texts[p]) for p in parts]


def _evaluate_part(
    model: nn.Module,
    part: _Part,
    lang: Tokens,
    device: torch.device,
    precision: torch.dtype | None,
    together: bool = False,
) -> Tensor:
    """Sums over a part; in halves where memory runs out, unless all processes go ``together``.

    Raises:
        TrainingError: memory does not hold one utterance.
    """
    try:
        return _sums(model, part, lang, device, precision)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error)
    # outside the except block, whose traceback would keep the tensors of the failed pass
    if len(part.texts) == 1 or together:
        raise TrainingError(
            f"validation: memory does not hold {len(part.texts)} utterance(s) of {part.features.shape[1]} frames "
            f"({reason}): lower features.max_duration"
            + (" or train.max_duration" if together else "")
        )
    gc.collect()
    logging.warning(
        "out of memory in validation with %d utterances: trying again in halves", len(part.texts)
    )
    return sum(
        (_evaluate_part(model, p, lang, device, precision) for p in part.halves()),
        torch.zeros(5, dtype=torch.float64),
    )


def _sums(
    model: nn.Module,
    batch: _Part,
    lang: Tokens,
    device: torch.device,
    precision: torch.dtype | None,
) -> Tensor:
    head = cast(Head, model.head)
    features = batch.features.to(device, non_blocking=True)
    spelled = [_targets(head, lang, text) for text in batch.texts]
    # a text that cannot be spelled has no loss: whatever comes out for no tokens is not read
    targets = Targets([target or [] for target in spelled], batch.texts)
    with torch.autocast(device.type, precision, enabled=precision is not None):
        losses, outputs, lens = model(features, batch.feature_lens.to(device), targets)
    known = torch.tensor([target is not None for target in spelled], device=losses.device)
    counted = known & torch.isfinite(losses)
    errors, words = _errors(lang, batch.texts, head.greedy(outputs, lens))
    values = [losses[counted].sum(), lens[counted].sum(), errors, words, len(batch.texts)]
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _targets(head: Head, lang: Tokens, text: str) -> list[int] | None:
    """Target tokens, or None for a text that training never saw the symbols of."""
    try:
        return head.targets(text, lang)
    except LangError:
        return None


def _errors(lang: Tokens, texts: Sequence[str], hypotheses: Sequence[list[int]]) -> tuple[int, int]:
    errors = words = 0
    for text, hypothesis in zip(texts, hypotheses, strict=True):
        reference = " ".join(_spoken(lang, word) for word in text.split()).split()
        errors += kaldialign.edit_distance(reference, lang.decode(hypothesis).split())["total"]
        words += len(reference)
    return errors, words


def _spoken(lang: Tokens, word: str) -> str:
    """The word, or its phones where these are the tokens; unknown, it stands for itself, an error."""
    try:
        return lang.decode(lang.encode(word))
    except LangError:
        return word
