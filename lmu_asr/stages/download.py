"""Stage 0: fetch or make the corpus."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from lmu_asr.data.importing.list_names import is_remote_list
from lmu_asr.errors import DataError
from lmu_asr.remote import fetch_folder, is_remote
from lmu_asr.stages.common import Context, Stage, program


def run(context: Context) -> None:
    """Fetch or make the corpus, or check that the user's own copy is there."""
    from lmu_asr.corpora import get_corpus

    config = context.config
    if is_remote_list(config.corpus.source):
        from lmu_asr.data.importing.remote_list import fetch_list

        count = fetch_list(config.corpus.source, context.source_dir)
        logging.info("%s: fetched, with %d audio files", config.corpus.source, count)
        return
    if is_remote(config.corpus.source):
        count = fetch_folder(config.corpus.source, context.source_dir)
        logging.info("%s: %d files fetched", config.corpus.source, count)
        return
    if context.has_own_copy:
        if not context.source_dir.exists():
            raise DataError(f"{context.source_dir}: no such file or directory (corpus.source)")
        logging.info("data are the user's own: %s", context.source_dir)
        return
    corpus = get_corpus(config.corpus.name)
    corpus.download(config.corpus, context.source_dir, config.seed)


def outputs(context: Context) -> Iterable[Path]:
    """Every downloaded or made file; the user's own files are not ours to check."""
    if context.has_own_copy:
        return ()
    is_list = is_remote_list(context.config.corpus.source)
    return (context.source_dir.parent if is_list else context.source_dir,)


STAGE = Stage(
    "download",
    "fetch or make the corpus",
    run,
    stamp_dir=lambda context: context.corpus_dir,
    outputs=outputs,
    outputs_by_size=True,
)

if __name__ == "__main__":
    sys.exit(program(STAGE))
