"""Error rates: hand-worked alignments, jiwer as the second opinion, and properties."""

from __future__ import annotations

import math

import jiwer
import kaldialign
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.errors import DataError
from lmu_asr.scoring.score import (
    EPSILON,
    ErrorCounts,
    align_symbols,
    count_errors,
    score_pairs,
    split_chars,
    split_words,
)

TEXT = st.lists(st.sampled_from(["a", "b", "cab", "é", "日本", "*", "x'y"]), max_size=7).map(
    " ".join
)
PAIRS = st.lists(st.tuples(TEXT.filter(bool), TEXT), min_size=1, max_size=6)


def score_one(ref: str, hyp: str) -> ErrorCounts:
    return score_pairs(["u"], [ref], [hyp], bootstrap=100).words.counts


def test_hand_worked_case() -> None:
    scores = score_pairs(
        ["u1", "u2"], ["the cat sat down", "a b"], ["the hat sat", "a x b"], bootstrap=100
    )
    assert scores.words.utterances[0].alignment == (
        ("the", "the"),
        ("cat", "hat"),
        ("sat", "sat"),
        ("down", EPSILON),
    )
    assert scores.words.counts == ErrorCounts(1, 1, 1, 6)
    assert scores.words.counts.correct == 4
    assert scores.wer == 50.0
    # "the cat sat down" -> "the hat sat": 1 substitution, 5 deletions; "a b" -> "a x b": 2 insertions
    assert scores.chars.counts == ErrorCounts(2, 5, 1, 19)


@pytest.mark.parametrize(
    ("ref", "hyp", "counts", "rate"),
    [
        ("", "", ErrorCounts(0, 0, 0, 0), 0.0),
        ("", "a b", ErrorCounts(2, 0, 0, 0), math.inf),
        ("a b", "", ErrorCounts(0, 2, 0, 2), 100.0),
        ("a", "b c d", ErrorCounts(2, 0, 1, 1), 300.0),
        ("  a \t b\n", "a b", ErrorCounts(0, 0, 0, 2), 0.0),
    ],
)
def test_empty_and_spacing(ref: str, hyp: str, counts: ErrorCounts, rate: float) -> None:
    found = score_one(ref, hyp)
    assert found == counts
    assert found.rate == rate


def test_canonically_equal_text_is_equal() -> None:
    assert score_one("caf\u00e9", "cafe\u0301").errors == 0
    assert split_chars("cafe\u0301 \u00e0") == ["c", "a", "f", "\u00e9", " ", "\u00e0"]


def test_words_that_look_like_marks_are_words() -> None:
    assert score_one("* <eps> ->", "* ->") == ErrorCounts(0, 1, 0, 3)


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_rates_equal_jiwer(pairs: list[tuple[str, str]]) -> None:
    refs, hyps = (list(side) for side in zip(*pairs, strict=True))
    scores = score_pairs([str(n) for n in range(len(refs))], refs, hyps, bootstrap=100)
    words = jiwer.process_words(refs, hyps)
    assert scores.wer == pytest.approx(100 * words.wer)
    assert scores.words.counts.length == words.hits + words.substitutions + words.deletions
    assert scores.cer == pytest.approx(100 * jiwer.cer(refs, hyps))


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT)
def test_alignment_is_complete_and_shortest(ref: str, hyp: str) -> None:
    pairs = align_symbols(split_words(ref), split_words(hyp))
    assert [r for r, _ in pairs if r != EPSILON] == ref.split()
    assert [h for _, h in pairs if h != EPSILON] == hyp.split()
    least = kaldialign.edit_distance(ref.split(), hyp.split())["total"]
    assert sum(r != h for r, h in pairs) == least
    assert count_errors([ref.split()], [hyp.split()]).errors == least


def test_interval_holds_the_rate_and_is_seeded() -> None:
    refs = ["a b c d e"] * 60
    hyps = ["a b c d e"] * 30 + ["a b x"] * 15 + ["a"] * 15
    ids = [str(n) for n in range(60)]
    first = score_pairs(ids, refs, hyps, seed=1).words
    again = score_pairs(ids, refs, hyps, seed=1).words
    other = score_pairs(ids, refs, hyps, seed=2).words
    assert first.interval == again.interval != other.interval
    assert first.interval[0] < first.rate < first.interval[1]
    assert first.interval == pytest.approx(other.interval, abs=1.0)


def test_phone_unit_is_kept() -> None:
    assert score_pairs(["u"], ["AH B"], ["AH"], unit="phone").words.unit == "phone"


@pytest.mark.parametrize(
    ("ids", "refs", "hyps", "message"),
    [
        (["u"], ["a", "b"], ["a"], "1 ids, 2 references and 1 hypotheses"),
        ([], [], [], "no utterances"),
        (["u", "v", "u"], ["a"] * 3, ["a"] * 3, "'u' occurs more than once"),
    ],
)
def test_bad_input(ids: list[str], refs: list[str], hyps: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_pairs(ids, refs, hyps)
