"""Results across the variants of a corpus: collected, written as ``RESULTS.md``, drawn as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmu_asr.errors import DataError
from lmu_asr.scoring.plots import plot_results
from lmu_asr.scoring.record import Results, load_results, save_results
from lmu_asr.scoring.table import table_markdown, write_results_markdown

__all__ = ["Results", "collect", "save_results", "table_markdown", "write_results"]


def collect(corpus_dir: Path) -> list[Results]:
    """Read the results of every decode under ``exp/<corpus>``, in order of name."""
    paths = sorted(corpus_dir.glob("*/decode*/results.json"))
    return [result for path in paths for result in load_results(path)]


def write_results(
    corpus_dir: Path, commands: Sequence[str] = (), baseline: str = "", note: str = ""
) -> Path:
    """Write ``RESULTS.md`` and ``results.png`` of all variants under ``corpus_dir``.

    Args:
        corpus_dir: ``exp/<corpus>``, whose variants have been decoded.
        commands: the command lines that made it; empty: one ``run.sh`` line a variant.
        baseline: variant that p-values compare with; empty: ``default`` or the first.
        note: a paragraph above the table, such as what kind of speech this is.

    Returns:
        The path of ``RESULTS.md``.

    Raises:
        DataError: no variant has results.
    """
    results = collect(corpus_dir)
    if not results:
        raise DataError(f"{corpus_dir}: no variant has decode/results.json; decode first (stage 5)")
    path = corpus_dir / "RESULTS.md"
    plot_results(corpus_dir / "results.png", results)
    # a variant has a result for each split and method, but one command
    lines = commands or list(dict.fromkeys(map(_command, results)))
    write_results_markdown(path, results, lines, baseline, note)
    return path


def _command(result: Results) -> str:
    made = result.provenance.command
    return made or f"./run.sh --recipe {result.corpus} --variant {result.variant}"
