"""Error rates of words, characters and phones, by the alignment of least edit distance.

An error rate is (insertions + deletions + substitutions) / reference length, in per cent, over the
whole set. Words are separated by white space; characters are Unicode code points after canonical
composition, with one space between words, as jiwer counts them.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import kaldialign

from lmu_asr.errors import DataError
from lmu_asr.scoring.significance import bootstrap_interval

EPSILON = "\0"  # no text holds it, so that every printable symbol may be a word
Pair = tuple[str, str]


@dataclass(frozen=True)
class ErrorCounts:
    """Edit operations against a reference of ``length`` symbols."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    length: int = 0

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions together."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def correct(self) -> int:
        """Reference symbols that were recognised."""
        return self.length - self.deletions - self.substitutions

    @property
    def rate(self) -> float:
        """Error rate in per cent; without a reference 0 if there are no errors, else infinite."""
        if self.length:
            return 100.0 * self.errors / self.length
        return math.inf if self.errors else 0.0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
            self.length + other.length,
        )


@dataclass(frozen=True)
class UtteranceErrors:
    """One utterance aligned: pairs (reference, hypothesis), ``EPSILON`` where one side has nothing."""

    id: str
    alignment: tuple[Pair, ...]

    @cached_property
    def counts(self) -> ErrorCounts:
        """Edit operations of this utterance."""
        insertions = sum(ref == EPSILON for ref, _ in self.alignment)
        deletions = sum(hyp == EPSILON for _, hyp in self.alignment)
        # insertions and deletions differ from EPSILON, so they are among the wrong ones
        wrong = sum(ref != hyp for ref, hyp in self.alignment)
        return ErrorCounts(
            insertions, deletions, wrong - insertions - deletions, len(self.alignment) - insertions
        )

    @property
    def ref(self) -> list[str]:
        """Reference symbols."""
        return [ref for ref, _ in self.alignment if ref != EPSILON]

    @property
    def hyp(self) -> list[str]:
        """Hypothesis symbols."""
        return [hyp for _, hyp in self.alignment if hyp != EPSILON]


@dataclass(frozen=True)
class ErrorReport:
    """Errors of a whole set in one unit (``word``, ``char`` or ``phone``).

    ``interval`` is the 95 % confidence interval of the rate, in per cent.
    """

    unit: str
    utterances: tuple[UtteranceErrors, ...]
    interval: tuple[float, float]

    @cached_property
    def counts(self) -> ErrorCounts:
        """Edit operations of the whole set."""
        return sum((u.counts for u in self.utterances), ErrorCounts())

    @property
    def rate(self) -> float:
        """Error rate of the whole set, in per cent."""
        return self.counts.rate


@dataclass(frozen=True)
class Scores:
    """Word (or phone) errors and character errors of the same hypotheses."""

    words: ErrorReport
    chars: ErrorReport

    @property
    def wer(self) -> float:
        """Word (or phone) error rate, in per cent."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate, in per cent."""
        return self.chars.rate


def align_symbols(ref: Sequence[str], hyp: Sequence[str]) -> tuple[Pair, ...]:
    """Align two symbol sequences at unit costs; ``EPSILON`` marks an insertion or a deletion."""
    return tuple(kaldialign.align(list(ref), list(hyp), EPSILON))


def count_errors(refs: Iterable[Sequence[str]], hyps: Iterable[Sequence[str]]) -> ErrorCounts:
    """Count edit operations over pairs of symbol sequences, without keeping alignments."""
    total = ErrorCounts()
    for ref, hyp in zip(refs, hyps, strict=True):
        found = kaldialign.edit_distance(list(ref), list(hyp))
        total += ErrorCounts(
            int(found["ins"]), int(found["del"]), int(found["sub"]), int(found["ref_len"])
        )
    return total


def split_words(text: str) -> list[str]:
    """Split text into words, in canonical composition (NFC)."""
    return unicodedata.normalize("NFC", text).split()


def split_chars(text: str) -> list[str]:
    """Split text into characters, with one space between words, in canonical composition."""
    return list(" ".join(split_words(text)))


def score_pairs(
    ids: Sequence[str],
    refs: Sequence[str],
    hyps: Sequence[str],
    bootstrap: int = 2000,
    seed: int = 42,
    unit: str = "word",
) -> Scores:
    """Score hypotheses against references.

    Args:
        ids: utterance ids, all different.
        refs: reference texts, words (or phones) separated by white space; may be empty.
        hyps: hypothesis texts, in the same order; may be empty.
        bootstrap: resamplings behind each confidence interval.
        seed: seed of the resampling.
        unit: what the space-separated symbols are, ``word`` or ``phone``.

    Raises:
        DataError: the lists differ in length, an id is repeated, or there is nothing to score.
    """
    _check_pairs(ids, refs, hyps)
    words = [align_symbols(split_words(r), split_words(h)) for r, h in zip(refs, hyps, strict=True)]
    chars = [align_symbols(split_chars(r), split_chars(h)) for r, h in zip(refs, hyps, strict=True)]
    return Scores(
        _report(unit, ids, words, bootstrap, seed), _report("char", ids, chars, bootstrap, seed)
    )


def _report(
    unit: str, ids: Sequence[str], alignments: list[tuple[Pair, ...]], bootstrap: int, seed: int
) -> ErrorReport:
    utterances = tuple(UtteranceErrors(i, a) for i, a in zip(ids, alignments, strict=True))
    interval = bootstrap_interval(
        [u.counts.errors for u in utterances],
        [u.counts.length for u in utterances],
        bootstrap,
        seed,
    )
    return ErrorReport(unit, utterances, interval)


def _check_pairs(ids: Sequence[str], refs: Sequence[str], hyps: Sequence[str]) -> None:
    if not len(ids) == len(refs) == len(hyps):
        raise DataError(
            f"{len(ids)} ids, {len(refs)} references and {len(hyps)} hypotheses: want as many of each"
        )
    if not ids:
        raise DataError("no utterances to score")
    if len(set(ids)) != len(ids):
        repeated = next(i for n, i in enumerate(ids) if i in ids[:n])
        raise DataError(f"utterance id {repeated!r} occurs more than once among {len(ids)}")
