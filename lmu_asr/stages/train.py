"""Stage 4: train the encoder; the entry point of every launcher's processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from lmu_asr.config_files import option_value
from lmu_asr.files import fingerprint
from lmu_asr.stages.common import Context, Stage, program, upstream_key, upstream_stamp
from lmu_asr.stages.lang import train_texts
from lmu_asr.stages.runs import claim_directory, is_same_run, own_run


def run(context: Context) -> None:
    """Train, or go on from the last checkpoint of the same configuration and data."""
    from lmu_asr.lock import sole_run
    from lmu_asr.training.run import run_training

    if int(os.environ.get("RANK", "0")) == 0:
        with sole_run(context.exp_dir):  # a run that is at work is not moved
            claim_directory(context)
    run_training(context.config, context.exp_dir, context.features_dir, context.lang_dir)


def facts(context: Context) -> dict[str, str]:
    """Fingerprints of what training takes from stages 1 and 2, by content.

    Of the lang directory: outputs and target spelling. Disambiguation symbols, words, and
    pronunciations of words outside the training text are left out: a larger lexicon or language
    model keeps the trained model.
    """
    from lmu_asr.lang.lang import Lang

    upstream_key(STAGE, "lang", context)
    options = context.config.train
    lang = Lang.load(context.lang_dir)
    texts = train_texts(context) if lang.unit == "phone" else ()
    words = {word for text in texts for word in text.split()}
    every = option_value(context.config, "model.ctc.loss") == "graph_ctc"
    content = [
        lang.unit,
        lang.tokens,
        lang.target_spelling(words, every_pronunciation=every),
        context.config.graph.fsa,
    ]
    shards = {"shards": f"in windows of {options.shar_window}"} if options.shar else {}
    return {"tokens": fingerprint(content), "data": fingerprint(read_of(context)), **shards}


def read_of(context: Context) -> dict[str, str]:
    """SHA-256 of each file of stage 1 that training reads: a new test set is none of them."""
    corpus = context.config.corpus
    names = {f"{corpus.train}_cuts.jsonl.gz", f"{corpus.dev}_cuts.jsonl.gz", f"{corpus.train}_text"}
    contents = upstream_stamp(STAGE, "features", context).contents

    def is_read(name: str) -> bool:
        folder, _, file = name.rpartition("/")
        split = file.rpartition("-")[0]
        return name in names | {"cmvn.json"} or (
            folder == "feats" and split in (corpus.train, corpus.dev)
        )

    return {name: digest for name, digest in contents.items() if is_read(name)}


def outputs(context: Context) -> Iterable[Path]:
    """The checkpoints that decoding may take, and the record of the run."""
    names = ("best.pt", "last.pt", "averaged.pt", "training.json", "metrics.jsonl", "config.yaml")
    return [path for name in names if (path := context.exp_dir / name).is_file()]


STAGE = Stage(
    "train",
    "train the model (plain Python, torchrun, Accelerate or Ray Train)",
    run,
    stamp_dir=lambda context: context.exp_dir,
    outputs=outputs,
    facts=facts,
    facts_from=("features", "lang"),
    together=True,
    takes_over=is_same_run,
    taken_over=own_run,
)


if __name__ == "__main__":
    sys.exit(program(STAGE))
