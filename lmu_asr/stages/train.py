"""Stage 4: train the encoder; the entry point of every launcher's processes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from lmu_asr.config_files import save_config
from lmu_asr.files import fingerprint, read_json, write_json
from lmu_asr.stages.common import Context, Stage, current_stamp, main, upstream_key
from lmu_asr.stages.lang import train_texts

OPERATIONAL = (
    "train.autoconf",
    "train.frame_limit",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.join_minutes",
    "train.keep_last",
    "train.log_every",
    "train.memory_mib",
    "train.num_workers",
    "train.remote",
    "train.shar",
    "train.shar_window",
    "train.strategy",
    "train.tensorboard",
    "train.wandb",
    "train.wandb_project",
)


def run(context: Context) -> None:
    """Train, or go on from the last checkpoint of the same configuration and data."""
    from lmu_asr.training.run import run_training

    if int(os.environ.get("RANK", "0")) == 0:
        claim_directory(context)
    run_training(context.config, context.exp_dir, context.features_dir, context.lang_dir)


def claim_directory(context: Context) -> None:
    """Move the run of another configuration aside; keep an unfinished one of the same.

    A finished run whose code has changed since starts anew; an unfinished one goes on.
    """
    stamp = current_stamp(STAGE, context)
    owner = context.exp_dir / ".train.started.json"
    own = {name: value for name, value in stamp.parts.items() if name != "code"}
    run_id = {"parts": own, "code": stamp.parts["code"]}
    old = read_json(owner) if owner.is_file() else None
    if old is not None and (old["parts"] != own or _finished_with_other_code(context, old, run_id)):
        _move_aside(context, fingerprint(old)[:8])
    elif old is not None and old["code"] != run_id["code"]:
        logging.info("the code changed since this run started; it goes on with the new code")
    save_config(context.config, context.exp_dir / "config.yaml")
    write_json(owner, run_id)


def _finished_with_other_code(
    context: Context, old: dict[str, object], new: dict[str, object]
) -> bool:
    return old["code"] != new["code"] and (context.exp_dir / "training.json").is_file()


def _move_aside(context: Context, name: str) -> None:
    target = context.exp_dir / f"superseded-{name}"
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(context.exp_dir.iterdir()):
        if path.name != "resolved.yaml" and not path.name.startswith("superseded-"):
            path.rename(target / path.name)
    logging.info("the earlier run had other settings or data; it is kept in %s", target)


def facts(context: Context) -> dict[str, str]:
    """Fingerprint of what training takes from the lang directory: outputs and target spelling.

    Disambiguation symbols, words, and pronunciations of words outside the training text are left
    out: a larger lexicon or language model keeps the trained model.
    """
    from lmu_asr.lang.lang import Lang

    upstream_key(STAGE, "lang", context)
    options = context.config.train
    lang = Lang.load(context.lang_dir)
    texts = train_texts(context) if lang.unit == "phone" else ()
    words = {word for text in texts for word in text.split()}
    every = options.loss == "graph_ctc"
    content = [
        lang.unit,
        lang.tokens,
        lang.target_spelling(words, every_pronunciation=every),
        context.config.graph.fsa,
    ]
    shards = {"shards": f"in windows of {options.shar_window}"} if options.shar else {}
    return {"tokens": fingerprint(content), **shards}


def outputs(context: Context) -> Iterable[Path]:
    """The checkpoints that decoding may take, and the record of the run."""
    names = ("best.pt", "last.pt", "averaged.pt", "training.json", "metrics.jsonl", "config.yaml")
    return [path for name in names if (path := context.exp_dir / name).is_file()]


STAGE = Stage(
    "train",
    "train the encoder with CTC (plain Python, torchrun, Accelerate or Ray Train)",
    run,
    stamp_dir=lambda context: context.exp_dir,
    outputs=outputs,
    sections=("seed", "model", "augment", "train"),
    rooms=(
        "training",
        "models",
        "data/ahead.py",
        "data/augment.py",
        "data/batches.py",
        "data/dataset.py",
        "data/noise.py",
        "data/reverb.py",
        "data/shar_files.py",
        "data/shar_sampler.py",
    ),
    after=("features",),
    facts=facts,
    ignored=OPERATIONAL,
    together=True,
)


if __name__ == "__main__":
    sys.exit(main(STAGE))
