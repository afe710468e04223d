"""Stage 6: the table across variants, RESULTS.md and its page."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from lmu_asr.stages.common import Context, Stage, program


def run(context: Context) -> None:
    """Collect the results of every variant of the corpus and write the table."""
    from lmu_asr.corpora import get_corpus
    from lmu_asr.scoring.results import write_results

    note = get_corpus(context.config.corpus.name).license_note
    write_results(context.results_dir, note=f"Corpus {note}.")


def show(context: Context) -> None:
    """Print the table; who reads it may have enough before its end, as ``head`` does."""
    try:
        print((context.results_dir / "RESULTS.md").read_text(encoding="utf-8"), flush=True)
    except BrokenPipeError:  # what is left in the buffer must not fail at the end of Python
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def inputs(context: Context) -> Iterable[Path]:
    """The results of every variant and decode."""
    return sorted(context.results_dir.glob("*/decode*/results.json"))


STAGE = Stage(
    "results",
    "results table across variants",
    run,
    stamp_dir=lambda context: context.results_dir,
    outputs=lambda context: [context.results_dir / name for name in ("RESULTS.md", "results.png")],
    after=("decode",),
    inputs=inputs,
    say=show,
)

if __name__ == "__main__":
    sys.exit(program(STAGE))
