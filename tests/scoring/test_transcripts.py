"""Files in icefall's formats, byte for byte on hand-worked cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.errors import DataError
from lmu_asr.scoring.score import ErrorReport, score_pairs
from lmu_asr.scoring.transcripts import (
    error_tables,
    format_alignment,
    read_recogs,
    write_errs,
    write_recogs,
    write_wer_summary,
)

ERRS = """\
%WER = 66.67
Errors: 1 insertions, 1 deletions, 2 substitutions, over 6 reference words (3 correct)
Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, \
PER-WORD STATS:

PER-UTT DETAILS: corr or (ref->hyp)
a-1:\t(*->X) A (B->C)
b-2:\tA (B->C) A (D->*)

SUBSTITUTIONS: count ref -> hyp
2   B -> C

DELETIONS: count ref
1   D

INSERTIONS: count hyp
1   X

PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp
B   0 2 2 0
C   0 2 0 2
D   0 1 1 0
X   0 1 0 1
A   3 0 3 3
"""


def words(ids: list[str], refs: list[str], hyps: list[str]) -> ErrorReport:
    return score_pairs(ids, refs, hyps, bootstrap=100).words


def sample() -> ErrorReport:
    return words(["b-2", "a-1"], ["A B A D", "A B"], ["A C A", "X A C"])


def test_errs_file(tmp_path: Path) -> None:
    write_errs(tmp_path / "errs.txt", sample())
    assert (tmp_path / "errs.txt").read_text() == ERRS


def test_recogs_file(tmp_path: Path) -> None:
    path = tmp_path / "recogs.txt"
    write_recogs(path, words(["b", "a"], ["it's \u00e9", ""], ["", "x"]))
    assert path.read_text(encoding="utf-8") == (
        "a:\tref=[]\na:\thyp=['x']\nb:\tref=[\"it's\", '\u00e9']\nb:\thyp=[]\n"
    )


SYMBOLS = st.text(st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]), max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc:-\t=", min_size=1), st.tuples(SYMBOLS, SYMBOLS), min_size=1))
def test_recogs_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, tuple[str, str]]
) -> None:
    report = words(list(texts), [r for r, _ in texts.values()], [h for _, h in texts.values()])
    path = tmp_path_factory.mktemp("recogs") / "recogs.txt"
    write_recogs(path, report)
    assert read_recogs(path) == {u.id: (u.ref, u.hyp) for u in report.utterances}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u ref=['a']\n", "recogs.txt:1: want 'id"),
        ("u:\tref=['a']\nu:\tboth=['a']\n", "recogs.txt:2: want 'id"),
        ("u:\tref=['a'\n", "recogs.txt:1: not a list"),
        ("u:\tref=3\n", "recogs.txt:1: want a list"),
        ("u:\tref=__import__('os')\n", "recogs.txt:1: not a list"),
        ("u:\tref=['a']\n", "'u' lacks its ref or hyp"),
    ],
)
def test_broken_recogs(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recogs.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_recogs(path)


def test_tables_add_up() -> None:
    report = sample()
    tables = error_tables(report)
    assert sum(tables.substitutions.values()) == report.counts.substitutions
    assert sum(tables.deletions.values()) == report.counts.deletions
    assert sum(tables.insertions.values()) == report.counts.insertions
    assert sum(s.in_ref for s in tables.symbols.values()) == report.counts.length
    assert sum(s.in_hyp for s in tables.symbols.values()) == sum(
        len(u.hyp) for u in report.utterances
    )


def test_adjacent_errors_stand_together() -> None:
    report = words(["u"], ["a b c d"], ["a x y d e"])
    assert format_alignment(report.utterances[0]) == "a (b c->x y) d (*->e)"


def test_summary_is_ordered_by_rate(tmp_path: Path) -> None:
    write_wer_summary(tmp_path / "s.txt", {"greedy": 9.126, "HLG": 3.0, "HL": float("inf")})
    assert (tmp_path / "s.txt").read_text() == "settings\tWER\nHLG\t3.00\ngreedy\t9.13\nHL\tinf\n"
