"""Greedy CTC decoding: the best token of each frame (Graves et al. 2006, best path decoding)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lmu_asr.fsa.hypothesis import Hypothesis, greedy_hypothesis
from lmu_asr.fsa.inputs import search_inputs
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang


def greedy_search(
    log_probs: Tensor,
    lens: Tensor,
    lang: Lang,
    blank_penalty: float = 0.0,
    ids: Sequence[str] | None = None,
) -> list[Hypothesis]:
    """Take the best token of each frame, remove repeats and blanks.

    Args:
        log_probs: (N, T, V) float32.
        lens: (N,) int64 frames.
        lang: turns tokens into words (phones stay phones: words need HL or HLG).
        blank_penalty: taken from the log posterior of blank in every frame.
        ids: utterance ids for messages.

    Raises:
        DataError: NaN or +infinity in the posteriors, naming the utterance.
    """
    inputs = search_inputs(log_probs, lens, SearchOptions(blank_penalty=blank_penalty), ids)
    return [greedy_hypothesis(scores, lang) for scores in inputs]
