"""Stage 1: manifests, validation and features."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from lmu_asr.errors import DataError
from lmu_asr.files import atomic_open, files_below
from lmu_asr.stages.common import Context, Stage, program

if TYPE_CHECKING:
    from lmu_asr.corpora.base import Manifests


def run(context: Context) -> None:
    """Make manifests, drop and list what cannot be used, extract features of every split."""
    from lmu_asr.corpora import get_corpus
    from lmu_asr.data.importing.list_names import check_split_names
    from lmu_asr.data.overlap import refuse_shared

    config = context.config
    check_split_names(config.corpus)
    corpus = get_corpus(config.corpus.name)
    cache = config.corpus.s3_cache or str(context.corpus_dir / "s3")
    pipes = config.corpus.pipe_dir or str(context.corpus_dir / "pipes")
    jobs = config.corpus.pipe_jobs or context.nj
    options = replace(config.corpus, s3_cache=cache, pipe_dir=pipes, pipe_jobs=jobs)
    manifests = corpus.manifests(options, context.source_dir)
    splits = context.config.corpus.splits
    missing = [split for split in splits if split not in manifests]
    if missing:
        raise DataError(
            f"{context.source_dir}: split '{missing[0]}' is not there; "
            f"found: {', '.join(sorted(manifests)) or 'none'} (corpus.train, corpus.dev, corpus.test)"
        )
    refuse_shared(manifests, config.corpus)
    _write_sources(context, [manifests[split] for split in splits])
    for split in splits:
        _prepare_split(context, split, manifests[split])


def _prepare_split(context: Context, split: str, manifests: Manifests) -> None:
    from lmu_asr.corpora import text_rule
    from lmu_asr.data.features.prepare import prepare_features
    from lmu_asr.data.importing.validate import validate_and_repair
    from lmu_asr.data.manifests import supervision_rows

    config = context.config
    rule = text_rule(config.corpus)
    kept, report = validate_and_repair(manifests, split, config.features, rule)
    cuts = prepare_features(
        kept,
        split,
        config.features,
        context.features_dir,
        nj=context.nj,
        training=split == config.corpus.train,
        report=report,
        on_ray=context.ray,
    )
    logging.info("%s: %s", split, report.summary())
    if report.text and (changes := report.text.summary()):
        logging.info("%s: %s", split, changes)
    with atomic_open(context.features_dir / f"{split}_text") as stream:
        dropped = report.dropped_ids
        for supervision in supervision_rows(kept.supervisions).by_key():
            if supervision.id not in dropped:
                stream.write(f"{supervision.id} {supervision.text}\n")
    del cuts


def _write_sources(context: Context, manifests: list[Manifests]) -> None:
    """List audio that lies outside the source directory, so that stamps see it change."""
    from lmu_asr.data.importing.ids import escaped
    from lmu_asr.data.rows import names

    corpus = context.config.corpus
    kept = Path(corpus.pipe_dir) if corpus.pipe_dir else context.corpus_dir / "pipes"
    folders = [str(context.source_dir.resolve()), str(kept.resolve())]
    inside = tuple(f"{folder}{os.sep}" for folder in folders)
    read = (
        str(Path(source.source).resolve())
        for item in manifests
        for recording in item.recordings
        for source in recording.sources
        if source.type == "file"
    )
    lists = {id(item.files): item.files for item in manifests}  # splits of one list share it
    named = itertools.chain(read, *lists.values())  # also what commands read, and what is missing
    outside = names(p for p in named if p not in folders and not p.startswith(inside)).by_key()
    listing = context.features_dir / "sources.txt"
    with atomic_open(listing) as stream:
        stream.writelines(f"{escaped(p, keep=' ')}\n" for p, _ in itertools.groupby(outside))


def inputs(context: Context) -> Iterable[Path]:
    """Every file of the source, also behind links, and the audio outside that the last run found."""
    from lmu_asr.text_lines import text_lines

    source = context.source_dir
    yield from files_below(source) if source.is_dir() else [source]
    listed = context.features_dir / "sources.txt"
    if listed.is_file():
        for _, line in text_lines(listed):
            yield Path(os.fsdecode(unquote_to_bytes(line)))


def outputs(context: Context) -> Iterable[Path]:
    """Cuts, stored features, statistics, texts and reports."""
    return (context.features_dir,)


def spares(context: Context, output: Path) -> bool:
    """Whether training takes these archives from Shar, so that they may be gone."""
    archive = output.parent.name == "feats" and not output.exists()
    split = output.name.rpartition("-")[0]
    return bool(context.config.train.shar) and archive and split == context.config.corpus.train


STAGE = Stage(
    "features",
    "Lhotse manifests, validation and filter-bank features",
    run,
    stamp_dir=lambda context: context.features_dir,
    outputs=outputs,
    after=("download",),
    inputs=inputs,
    late_inputs=True,
    spares=spares,
    on_cluster=True,
)

if __name__ == "__main__":
    sys.exit(program(STAGE))
