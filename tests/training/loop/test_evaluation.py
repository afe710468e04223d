"""Validation by hand-worked cases."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmu_asr.data.batch import Batch
from lmu_asr.errors import LangError
from lmu_asr.models.ctc import CtcHead
from lmu_asr.models.head import Targets
from lmu_asr.models.losses.ctc import ctc_loss
from lmu_asr.training.loop.evaluation import evaluate
from lmu_asr.training.parallel.processes import current_world
from tests.training.toy import ToyLang, answer

WORLD = current_world(prefer_gpu=False)


class Certain(nn.Module):
    """Reads each frame's token off the first feature, with probability 0.9."""

    def __init__(self) -> None:
        super().__init__()
        self.head = CtcHead(1, 5)

    def forward(self, x: Tensor, lens: Tensor, targets: Targets | None = None) -> Any:
        probs = torch.full((*x.shape[:2], 5), 0.025)
        probs.scatter_(2, x[..., :1].long(), 0.9)
        return answer(self.head, probs.log(), lens, targets)


class StrictLang(ToyLang):
    """Knows no letter but a to d."""

    def encode(self, text: str) -> list[int]:
        if "x" in text:
            raise LangError("symbol 'x' has no token")
        return super().encode(text)


def batch(frames: list[list[int]], texts: list[str]) -> Batch:
    lens = torch.tensor([len(row) for row in frames])
    x = torch.zeros(len(frames), int(lens.max()), 1)
    for index, row in enumerate(frames):
        x[index, : len(row), 0] = torch.tensor(row, dtype=torch.float32)
    return Batch(x, lens, texts, [f"u{i}" for i in range(len(frames))], [1.0] * len(frames))


def test_error_rate_and_loss() -> None:
    # "a b" right; "a c" against "a b d": one substitution and one deletion
    data = batch([[1, 0, 2], [1, 3]], ["ab", "abd"])
    result = evaluate(Certain(), [data], StrictLang(), WORLD)
    assert result.utterances == 2
    assert result.wer == pytest.approx(2 / 5)
    # the second has 2 frames for 3 tokens: no finite loss, so the first alone counts
    log_probs, lens = Certain()(data.features[:1], data.feature_lens[:1])
    want = ctc_loss(log_probs, lens, [[1, 2]]).item() / 3
    assert result.loss == pytest.approx(want)


def test_text_with_unknown_symbols_counts_as_errors() -> None:
    data = batch([[1, 0, 2], [1, 0, 0]], ["ab", "a x"])
    result = evaluate(Certain(), [data], StrictLang(), WORLD)
    assert result.wer == pytest.approx(1 / 4)


def test_nothing_to_evaluate_is_undefined() -> None:
    result = evaluate(Certain(), [], StrictLang(), WORLD)
    assert math.isnan(result.wer) and math.isnan(result.loss)


def test_mode_is_restored_even_when_stopped() -> None:
    model = Certain().train()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, [batch([[1]], ["a"])], StrictLang(), WORLD, heartbeat=stop)
    assert model.training


def test_a_batch_without_one_spellable_text_counts_as_errors() -> None:
    result = evaluate(Certain(), [batch([[1], [2]], ["x", "x"])], StrictLang(), WORLD)
    assert result.wer == 1.0
    assert math.isnan(result.loss)


class PhoneLang(StrictLang):
    """Spells a to d as phones, one a letter."""

    unit = "phone"

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join("_abcd"[i] for i in ids)


def test_an_unknown_word_among_phones_is_one_error() -> None:
    # reference "a b | x | d", of which "x" has no phones: the other phones still count
    data = batch([[1, 2, 4]], ["ab x d"])
    result = evaluate(Certain(), [data], PhoneLang(), WORLD)
    assert result.wer == pytest.approx(1 / 4)
