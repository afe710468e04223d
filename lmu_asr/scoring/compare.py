"""Two systems on the same utterances: significance, and the utterances that differ."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmu_asr.arguments import ArgumentParser
from lmu_asr.errors import DataError, LmuAsrError
from lmu_asr.scoring.record import Results, load_results
from lmu_asr.scoring.significance import paired_p_value
from lmu_asr.scoring.transcripts import read_recogs


@dataclass(frozen=True)
class Difference:
    """One utterance on which two systems err differently; the texts are empty where unknown."""

    id: str
    errors: tuple[int, int]
    ref: str = ""
    hyps: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Comparison:
    """Two systems on one split: the p-value, and where they differ, largest difference first."""

    first: Results
    second: Results
    p_value: float
    common: int
    differences: tuple[Difference, ...]


def p_value(result: Results, baseline: Results, resamplings: int = 2000) -> float | None:
    """Return the paired p-value of two results on their common utterances.

    None where it would mean nothing: another split, another unit, or not the same references.
    """
    if (result.split, result.unit) != (baseline.split, baseline.unit):
        return None
    pairs = _common_errors(result, baseline)
    if len(pairs) < max(len(result.utterances), len(baseline.utterances)):
        return None
    own, other = zip(*pairs.values(), strict=True)
    return paired_p_value(own, other, resamplings, result.seed)


def _common_errors(first: Results, second: Results) -> dict[str, tuple[int, int]]:
    """Map the ids of utterances with equal reference length in both to (errors, errors)."""
    others = {u.id: u for u in second.utterances}
    return {
        u.id: (u.word_errors, others[u.id].word_errors)
        for u in first.utterances
        if u.id in others and others[u.id].words == u.words
    }


def compare(first: Results, second: Results, first_dir: Path, second_dir: Path) -> Comparison:
    """Compare two decodes of one split.

    Args:
        first, second: the results; p-value below 0.05 where they differ beyond chance.
        first_dir, second_dir: their decode directories; texts come from the ``recogs`` files there.

    Raises:
        DataError: different splits or units, or no utterance in common.
    """
    if (first.split, first.unit) != (second.split, second.unit):
        raise DataError(
            f"cannot compare {first.unit}s of {first.split!r} with {second.unit}s of {second.split!r}"
        )
    pairs = _common_errors(first, second)
    if not pairs:
        raise DataError(f"{first.variant} and {second.variant} have no utterance in common")
    own, other = zip(*pairs.values(), strict=True)
    texts = [_read_texts(first, first_dir), _read_texts(second, second_dir)]
    changed = sorted(
        # equal numbers of errors may be different errors
        (i for i in pairs if pairs[i][0] != pairs[i][1] or _texts_differ(texts, i)),
        key=lambda i: (-abs(pairs[i][0] - pairs[i][1]), i),
    )
    differences = tuple(
        Difference(i, pairs[i], _text(texts[0], i, 0), (_text(texts[0], i), _text(texts[1], i)))
        for i in changed
    )
    p = paired_p_value(own, other, seed=first.seed)
    return Comparison(first, second, p, len(pairs), differences)


def compare_files(
    first: Path, second: Path, split: str = "", methods: Sequence[str] = ()
) -> list[Comparison]:
    """Compare two ``results.json`` files on every split and method that both hold.

    Args:
        first, second: files written by stage 5.
        split: only this split; empty: all.
        methods: one method for both files, or two, the first file's and the second's; empty: the
            methods that both have.

    Raises:
        DataError: a file that cannot be read, or nothing in common.
    """
    ones, others = load_results(first), load_results(second)
    wanted = [
        (a, b)
        for a in ones
        for b in others
        if a.split == b.split and split in ("", a.split) and _methods_match(a, b, methods)
    ]
    if not wanted:
        have = sorted({f"{r.split}/{r.method}" for r in [*ones, *others]})
        near = difflib.get_close_matches(split, sorted({r.split for r in [*ones, *others]}), n=1)
        hint = f"; did you mean {near[0]}?" if split and near else ""
        raise DataError(f"{first} and {second}: nothing to compare; have {', '.join(have)}{hint}")
    return [compare(a, b, first.parent, second.parent) for a, b in wanted]


def _methods_match(a: Results, b: Results, methods: Sequence[str]) -> bool:
    if not methods:
        return a.method == b.method
    # one method named stands for both files
    return a.method == methods[0] and b.method == methods[-1]


def _read_texts(result: Results, folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    path = folder / f"recogs-{result.split}-{result.method}.txt"
    return read_recogs(path) if path.is_file() else {}


def _text(texts: dict[str, tuple[list[str], list[str]]], utterance: str, side: int = 1) -> str:
    return " ".join(texts[utterance][side]) if utterance in texts else ""


def _texts_differ(texts: Sequence[dict[str, tuple[list[str], list[str]]]], utterance: str) -> bool:
    """Whether both hypotheses are known and differ."""
    known = [side[utterance][1] for side in texts if utterance in side]
    return len(known) == 2 and known[0] != known[1]


def comparison_text(comparison: Comparison, limit: int = 20) -> str:
    """Return the comparison as plain text: both rates, the p-value, the utterances that differ."""
    first, second = comparison.first, comparison.second
    rows = [
        ("", _name(first), _name(second)),
        ("error rate %", _rate(first), _rate(second)),
        ("errors", str(first.wer.errors), str(second.wer.errors)),
        ("character rate %", _number(first.cer.rate), _number(second.cer.rate)),
        ("parameters", f"{first.cost.parameters:,}", f"{second.cost.parameters:,}"),
        ("real-time factor", f"{first.cost.rtf:.4f}", f"{second.cost.rtf:.4f}"),
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    padded = [[cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in rows]
    lines = ["  ".join(row).rstrip() for row in padded]
    better = sum(d.errors[0] < d.errors[1] for d in comparison.differences)
    worse = sum(d.errors[0] > d.errors[1] for d in comparison.differences)
    lines.append(
        f"split {first.split}: {comparison.common} utterances in common, first better on {better}, "
        f"second better on {worse}; p = {comparison.p_value:.4f} (paired bootstrap, two-sided)"
    )
    for item in comparison.differences[:limit]:
        lines += ["", f"{item.id}: {item.errors[0]} and {item.errors[1]} errors"]
        lines += [f"  ref {item.ref}", f"   1  {item.hyps[0]}", f"   2  {item.hyps[1]}"]
    hidden = len(comparison.differences) - limit
    return "\n".join([*lines, f"... and {hidden} more"] if hidden > 0 else lines) + "\n"


def _name(result: Results) -> str:
    return f"{result.name}/{result.method}"


def _rate(result: Results) -> str:
    rate = result.wer
    return f"{_number(rate.rate)} [{_number(rate.low)}, {_number(rate.high)}]"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _results_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    direct = path / "results.json"
    return direct if direct.is_file() else path / "decode" / "results.json"


def main(argv: Sequence[str] | None = None, prog: str = "utils/compare.sh") -> int:
    """Compare two decodes from the command line; returns the exit status."""
    parser = ArgumentParser(
        prog=prog, description="Compare two decodes on the same utterances.", allow_abbrev=False
    )
    parser.add_argument(
        "first", type=Path, help="results.json, or a directory of a decode or experiment"
    )
    parser.add_argument("second", type=Path, help="the other one; may be the same")
    parser.add_argument("--split", default="", help="only this split")
    parser.add_argument(
        "--method", nargs="+", default=[], help="one method, or the first's and the second's"
    )
    parser.add_argument("--limit", type=int, default=20, help="utterances shown")
    args = parser.parse_args(argv)
    paths = [_results_file(path) for path in (args.first, args.second)]
    try:
        found = compare_files(paths[0], paths[1], args.split, args.method)
    except LmuAsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(comparison_text(comparison, args.limit) for comparison in found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
