"""Results for the tests of this room."""

from __future__ import annotations

from typing import Any

from lmu_asr.scoring.record import Cost, Provenance, Rate, Results, utterance_results
from lmu_asr.scoring.score import Scores, score_pairs


def make_scores(errors: list[int], length: int = 10) -> Scores:
    """Scores of utterances of ``length`` words with the given numbers of wrong words."""
    refs = [" ".join(["a"] * length)] * len(errors)
    hyps = [" ".join(["b"] * wrong + ["a"] * (length - wrong)) for wrong in errors]
    return score_pairs([f"u{n:03d}" for n in range(len(errors))], refs, hyps, bootstrap=100)


def make_result(variant: str = "default", scores: Scores | None = None, **kwargs: Any) -> Results:
    """One result with every field set, of ``scores`` or of a small sample."""
    scores = scores or make_scores([1, 0, 2])
    values: dict[str, Any] = {
        "corpus": "mini",
        "variant": variant,
        "method": "HLG",
        "split": "test",
        "role": "test",
        "engine": "openfst",
        "unit": "word",
        "wer": Rate.of(scores.words),
        "cer": Rate.of(scores.chars),
        "utterances": utterance_results(scores),
        "scales": {"lm_scale": 0.5, "acoustic_scale": 1.0},
        "cost": Cost(1_234_567, 100.0, 0.5, 0.25, 115.0, 372.0, 2),
        "provenance": Provenance(
            "best", "ab" * 32, "cd" * 32, "ef", "0.1.0", "2.13", "CPU", "./run.sh"
        ),
    }
    return Results(**{**values, **kwargs})
