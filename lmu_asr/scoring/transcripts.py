"""Transcript and error files in icefall's formats: ``recogs``, ``errs`` and ``wer-summary``."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lmu_asr.errors import DataError
from lmu_asr.files import atomic_write_text
from lmu_asr.scoring.score import EPSILON, ErrorReport, Pair, UtteranceErrors

MARK = "*"


@dataclass
class SymbolStats:
    """How often one symbol was recognised, substituted on either side, inserted and deleted."""

    correct: int = 0
    ref_substituted: int = 0
    hyp_substituted: int = 0
    inserted: int = 0
    deleted: int = 0

    @property
    def errors(self) -> int:
        """Errors that involve the symbol, on either side."""
        return self.ref_substituted + self.hyp_substituted + self.inserted + self.deleted

    @property
    def in_ref(self) -> int:
        """Occurrences in the references."""
        return self.correct + self.ref_substituted + self.deleted

    @property
    def in_hyp(self) -> int:
        """Occurrences in the hypotheses."""
        return self.correct + self.hyp_substituted + self.inserted


@dataclass(frozen=True)
class ErrorTables:
    """Substitutions, deletions and insertions, and statistics of every symbol."""

    substitutions: Counter[Pair]
    deletions: Counter[str]
    insertions: Counter[str]
    symbols: dict[str, SymbolStats]


def error_tables(report: ErrorReport) -> ErrorTables:
    """Count every kind of error over the whole set."""
    tables = ErrorTables(Counter(), Counter(), Counter(), {})
    for utterance in report.utterances:
        for ref, hyp in utterance.alignment:
            _count_pair(tables, ref, hyp)
    return tables


def _count_pair(tables: ErrorTables, ref: str, hyp: str) -> None:
    if ref == EPSILON:
        tables.insertions[hyp] += 1
        tables.symbols.setdefault(hyp, SymbolStats()).inserted += 1
    elif hyp == EPSILON:
        tables.deletions[ref] += 1
        tables.symbols.setdefault(ref, SymbolStats()).deleted += 1
    elif ref == hyp:
        tables.symbols.setdefault(ref, SymbolStats()).correct += 1
    else:
        tables.substitutions[ref, hyp] += 1
        tables.symbols.setdefault(ref, SymbolStats()).ref_substituted += 1
        tables.symbols.setdefault(hyp, SymbolStats()).hyp_substituted += 1


def write_recogs(path: Path, report: ErrorReport) -> None:
    """Write references and hypotheses, two lines an utterance, sorted by utterance id."""
    lines = [
        f"{u.id}:\t{side}={symbols}"
        for u in sorted(report.utterances, key=lambda u: u.id)
        for side, symbols in (("ref", u.ref), ("hyp", u.hyp))
    ]
    atomic_write_text(path, "\n".join(lines) + "\n")


def read_recogs(path: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Read a ``recogs`` file: utterance id -> (reference, hypothesis) symbols.

    Raises:
        DataError: a line that is not ``id:<tab>ref=[...]`` or ``id:<tab>hyp=[...]``.
    """
    sides: dict[str, dict[str, list[str]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
        # from the right: repr writes a tab of a symbol as \t, while an id may hold a colon
        utterance, _, rest = line.rpartition(":\t")
        side, sep, value = rest.partition("=")
        if not utterance or not sep or side not in ("ref", "hyp"):
            raise DataError(
                f"{path}:{number}: want 'id:<tab>ref=[...]' or 'hyp=[...]', got {line!r}"
            )
        sides.setdefault(utterance, {})[side] = _parse_symbols(value, path, number)
    incomplete = [utterance for utterance, found in sides.items() if len(found) < 2]
    if incomplete:
        raise DataError(f"{path}: utterance {incomplete[0]!r} lacks its ref or hyp line")
    return {utterance: (found["ref"], found["hyp"]) for utterance, found in sides.items()}


def _parse_symbols(value: str, path: Path, number: int) -> list[str]:
    try:
        # icefall writes Python lists; this reads them and runs no code
        symbols = ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{path}:{number}: not a list of symbols: {value!r}") from error
    if not isinstance(symbols, list):
        raise DataError(f"{path}:{number}: want a list of symbols, got {value!r}")
    return [str(symbol) for symbol in symbols]


def write_errs(path: Path, report: ErrorReport) -> None:
    """Write the overall rate, every alignment and the tables of errors, most frequent first."""
    atomic_write_text(path, "\n".join(_errs_lines(report)) + "\n")


def _errs_lines(report: ErrorReport) -> Iterator[str]:
    counts, tables = report.counts, error_tables(report)
    unit = report.unit
    yield f"%{RATE_NAMES[unit]} = {counts.rate:.2f}"
    yield (
        f"Errors: {counts.insertions} insertions, {counts.deletions} deletions, "
        f"{counts.substitutions} substitutions, over {counts.length} reference {unit}s "
        f"({counts.correct} correct)"
    )
    yield (
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, "
        "DELETIONS:, INSERTIONS:, PER-WORD STATS:"
    )
    yield from ("", "PER-UTT DETAILS: corr or (ref->hyp)")
    for utterance in sorted(report.utterances, key=lambda u: u.id):
        yield f"{utterance.id}:\t{format_alignment(utterance)}"
    yield from ("", "SUBSTITUTIONS: count ref -> hyp")
    yield from (f"{n}   {ref} -> {hyp}" for (ref, hyp), n in _ranked(tables.substitutions))
    yield from ("", "DELETIONS: count ref")
    yield from (f"{n}   {ref}" for ref, n in _ranked(tables.deletions))
    yield from ("", "INSERTIONS: count hyp")
    yield from (f"{n}   {hyp}" for hyp, n in _ranked(tables.insertions))
    yield from ("", "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp")
    ranked = sorted(tables.symbols.items(), key=lambda item: (-item[1].errors, item[0]))
    yield from (f"{w}   {s.correct} {s.errors} {s.in_ref} {s.in_hyp}" for w, s in ranked)


RATE_NAMES = {"word": "WER", "char": "CER", "phone": "PER"}


def format_alignment(utterance: UtteranceErrors) -> str:
    """Return one line: words as they are, each run of errors as ``(ref->hyp)``, ``*`` for nothing."""
    parts: list[str] = []
    for wrong, run in groupby(utterance.alignment, key=lambda pair: pair[0] != pair[1]):
        pairs = list(run)
        if not wrong:
            parts += [ref for ref, _ in pairs]
            continue
        sides = [_join_side(pair[side] for pair in pairs) for side in (0, 1)]
        parts.append(f"({sides[0]}->{sides[1]})")
    return " ".join(parts)


def _join_side(symbols: Iterable[str]) -> str:
    return " ".join(symbol for symbol in symbols if symbol != EPSILON) or MARK


def _ranked(counter: Counter) -> Sequence[tuple]:
    # ties by name, so that the order of the utterances does not show
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def write_wer_summary(path: Path, rates: Mapping[str, float]) -> None:
    """Write one line per setting with its WER in per cent, the best first."""
    ordered = sorted(rates.items(), key=lambda item: (item[1], item[0]))
    lines = ["settings\tWER", *(f"{setting}\t{rate:.2f}" for setting, rate in ordered)]
    atomic_write_text(path, "\n".join(lines) + "\n")
