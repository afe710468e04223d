"""Stage 4: train the encoder; the entry point of every launcher's processes."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmu_asr.config_files import save_config
from lmu_asr.errors import StageError
from lmu_asr.files import fingerprint, read_json, write_json
from lmu_asr.stages.common import Context, Stage, current_stamp, program, upstream_key
from lmu_asr.stages.context import PLACES, save_places
from lmu_asr.stages.lang import train_texts

OWNER = ".train.started.json"
FORCED = "makes room for another (--force)"
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
    from lmu_asr.training.lock import sole_run
    from lmu_asr.training.run import run_training

    if int(os.environ.get("RANK", "0")) == 0:
        with sole_run(context.exp_dir):  # a run that is at work is not moved
            claim_directory(context)
    run_training(context.config, context.exp_dir, context.features_dir, context.lang_dir)


def claim_directory(context: Context) -> None:
    """Move the run of another configuration aside, and any with ``--force``; else go on with it.

    A finished run whose code has changed since starts anew; an unfinished one goes on.

    Raises:
        StageError: ``--force``, and the mirror (``train.remote``) would bring the old run back.
    """
    stamp = current_stamp(STAGE, context)
    own = {name: value for name, value in stamp.parts.items() if name != "code"}
    new = {"parts": own, "code": stamp.parts["code"]}
    if context.force:
        new["forced"] = os.environ.get("LMU_ASR_RUN_ID", "")
    old = _read_owner(context)
    if old is not None:
        reason = _why_anew(context, old, new)
        if reason == FORCED and context.config.train.remote:
            _refuse_mirror(context)
        if reason:
            _move_aside(context, old, reason)
        elif old["code"] != new["code"]:
            logging.info("the code changed since this run started; it goes on with the new code")
    save_config(context.config, context.exp_dir / "config.yaml")
    save_places(context.exp_dir, context.data_root)
    write_json(context.exp_dir / OWNER, new)


def _read_owner(context: Context) -> dict[str, Any] | None:
    """What the run in the directory was started with; None where there is none, or no record."""
    try:
        old = read_json(context.exp_dir / OWNER)
        return {"parts": old["parts"], "code": old["code"], **old}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"{context.exp_dir / OWNER}: not valid ({error}): remove it to go on with the run there, "
            "or move the directory away"
        ) from error


def _why_anew(context: Context, old: dict[str, Any], new: dict[str, Any]) -> str:
    """Why the run in the directory makes room for a new one; empty: it goes on."""
    if "aside" in old:
        return "was being moved aside"
    if old["parts"] != new["parts"]:
        return "had other settings or data"
    if old["code"] != new["code"] and (context.exp_dir / "training.json").is_file():
        return "was finished by other code"
    # a launcher that starts its processes again passes --force again: that is still the same run
    again = bool(new.get("forced")) and old.get("forced") == new["forced"]
    return FORCED if context.force and not again else ""


def _refuse_mirror(context: Context) -> None:
    from lmu_asr.remote import RemoteFolder, experiment_url

    url = experiment_url(context.config.train.remote, context.exp_dir)
    if any(name.endswith(".pt") for name in RemoteFolder(url).files()):
        raise StageError(
            f"--force: {url} mirrors the earlier run and would bring it back: remove what is below "
            "it, or name another mirror with --set train.remote=s3://..."
        )


def _move_aside(context: Context, old: dict[str, Any], reason: str) -> None:
    """Move a run to a directory of its own; one that is killed meanwhile is moved to its end."""
    name = old.get("aside") or _free_name(context.exp_dir, f"superseded-{fingerprint(old)[:8]}")
    owner, target = context.exp_dir / OWNER, context.exp_dir / name
    write_json(owner, {**old, "aside": name})
    target.mkdir(exist_ok=True)
    stays = {"resolved.yaml", PLACES, ".lock", OWNER}
    for path in sorted(context.exp_dir.iterdir()):
        if path.name not in stays and not path.name.startswith("superseded-"):
            path.rename(target / path.name)
    owner.unlink()
    logging.info("the earlier run %s; it is kept in %s", reason, target)


def _free_name(folder: Path, name: str) -> str:
    names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(n for n in names if not (folder / n).exists())


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
        "data/archive.py",
        "data/augment.py",
        "data/batch.py",
        "data/batches.py",
        "data/dataset.py",
        "data/noise.py",
        "data/reverb.py",
        "data/shar_files.py",
        "data/shar_sampler.py",
    ),
    after=("features",),
    facts=facts,
    facts_from=("lang",),
    ignored=OPERATIONAL,
    together=True,
)


if __name__ == "__main__":
    sys.exit(program(STAGE))
