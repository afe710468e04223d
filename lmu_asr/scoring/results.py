"""Results across the variants of a corpus: collected, and written as ``RESULTS.md`` and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmu_asr.errors import DataError
from lmu_asr.scoring.record import Results, load_results, save_results
from lmu_asr.scoring.table import table_markdown, write_results_markdown

__all__ = ["Results", "collect", "save_results", "table_markdown", "write_results"]


def collect(corpus_dir: Path) -> list[Results]:
    """Read the results of every variant under ``exp/<corpus>``, variants in order of name."""
    paths = sorted(corpus_dir.glob("*/decode/results.json"))
    return [result for path in paths for result in load_results(path)]


def write_results(
    corpus_dir: Path, commands: Sequence[str] = (), baseline: str = "", note: str = ""
) -> Path:
    """Write ``RESULTS.md`` of all variants under ``corpus_dir``; returns its path.

    Args:
        corpus_dir: ``exp/<corpus>``, whose variants have been decoded.
        commands: the command lines that made it; empty: one ``run.sh`` line a variant.
        baseline: variant that p-values compare with; empty: ``default`` or the first.
        note: a paragraph above the table, such as what kind of speech this is.

    Raises:
        DataError: no variant has results.
    """
    results = collect(corpus_dir)
    if not results:
        raise DataError(f"{corpus_dir}: no variant has decode/results.json; decode first (stage 5)")
    commands = commands or sorted({r.provenance.command for r in results if r.provenance.command})
    path = corpus_dir / "RESULTS.md"
    write_results_markdown(path, results, commands, baseline, note)
    return path
