"""What stands in an experiment directory: a run is gone on with, taken over, moved aside, removed."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmu_asr.config_files import load_config, save_config
from lmu_asr.config_paths import shaping
from lmu_asr.errors import LmuAsrError, StageError
from lmu_asr.files import fingerprint, read_json, sha256_file, write_json
from lmu_asr.stages import load_stage
from lmu_asr.stages.common import current_stamp
from lmu_asr.stages.context import OWN_COPY, PLACES, Context, save_places
from lmu_asr.stages.stamp import FORMAT, Stamp

# read from the source by stages.definitions: editing this module makes no stage run again
CHANGES_NO_OUTPUT = True
OWNER = ".train.started.json"
FORCED = "makes room for another (--force)"
SUPERSEDED = re.compile(r"superseded-[0-9a-f]{8}(-\d+)?")


def claim_directory(context: Context) -> None:
    """Move the run of another configuration aside, and any with ``--force``; else go on with it.

    A finished run whose code has changed since starts anew; an unfinished one goes on.

    Raises:
        StageError: ``--force``, and the mirror (``train.remote``) would bring the old run back.
    """
    stamp = current_stamp(load_stage("train"), context)
    new = _record(stamp)
    if context.force:
        new["forced"] = os.environ.get("LMU_ASR_RUN_ID", "")
    old = _read_owner(context)
    if old is not None:
        old = _translated(context, old, stamp)
        reason = _why_anew(context, old, new)
        if reason == FORCED and context.config.train.remote:
            _refuse_mirror(context)
        if reason:
            _move_aside(context, old, reason)
        elif old["code"] != new["code"]:
            logging.info("the code changed since this run started; it goes on with the new code")
    _say_superseded(context)
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
    # the target's name first: after a kill the next run goes on with this same move
    write_json(owner, {**old, "aside": name})
    target.mkdir(exist_ok=True)
    stays = {"resolved.yaml", PLACES, ".lock", OWNER}
    for path in sorted(context.exp_dir.iterdir()):
        if path.name not in stays and not path.name.startswith(("superseded-", OWN_COPY)):
            path.rename(target / path.name)
    # last: while it stands with "aside", the move is not finished
    owner.unlink()
    logging.info("the earlier run %s; it is kept in %s", reason, target)


def _free_name(folder: Path, name: str) -> str:
    names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(n for n in names if not (folder / n).exists())


def is_same_run(context: Context, old: Stamp, new: Stamp) -> bool:
    """Whether a finished run with a stamp of an earlier version is what training would make."""
    finished = (context.exp_dir / "training.json").is_file()
    return finished and _agrees(context, old.parts, new)


def own_run(context: Context, stamp: Stamp) -> None:
    """Record that the run in the directory is of this version's options, data and code."""
    write_json(context.exp_dir / OWNER, _record(stamp))


def _record(stamp: Stamp) -> dict[str, Any]:
    own = {name: value for name, value in stamp.parts.items() if name != "code"}
    return {"format": FORMAT, "parts": own, "code": stamp.parts["code"]}


def _translated(context: Context, old: dict[str, Any], stamp: Stamp) -> dict[str, Any]:
    """The record of a run that an earlier version has begun, as this one would have written it."""
    if (
        old.get("format", 1) == FORMAT
        or "aside" in old
        or not _agrees(context, old["parts"], stamp)
    ):
        return old
    return {**old, **_record(stamp)}


def _agrees(context: Context, parts: dict[str, Any], new: Stamp) -> bool:
    """Whether a run of an earlier version has the options, tokens and data of this one."""
    from lmu_asr.checkpoints.checkpoint import CheckpointStore, load_checkpoint
    from lmu_asr.lang.lang import Lang

    if context.config.train.shar:
        return False
    try:
        lang = Lang.load(context.lang_dir)
        if lang.unit == "phone" and parts.get("tokens") != new.parts["tokens"]:
            return False  # the same phones may spell words in another way
        options = shaping(load_config(context.exp_dir / "config.yaml"), "train")
        last = context.exp_dir / "last.pt"
        store = CheckpointStore(context.exp_dir, keep_last=1)
        found = load_checkpoint(last) if last.is_file() else store.latest_good()
        corpus = context.config.corpus
        cuts = (
            context.features_dir / f"{name}_cuts.jsonl.gz" for name in (corpus.train, corpus.dev)
        )
        data = fingerprint([sha256_file(path) for path in cuts])
    except (LmuAsrError, OSError) as error:
        logging.info("the run of an earlier version cannot be compared: %s", error)
        return False
    saved = found.meta.get("identity", {}) if found else {}
    same = saved.get("manifest") == data
    same = same and saved.get("tokens") == fingerprint([lang.unit, lang.tokens])
    return same and options == shaping(context.config, "train")


def superseded(folder: Path) -> Iterator[Path]:
    """Yield the earlier runs that were moved aside whole in an experiment directory."""
    try:
        leaving = read_json(folder / OWNER).get("aside")
    except (OSError, ValueError, AttributeError):
        leaving = None
    for path in sorted(folder.glob("superseded-*")):
        whole = SUPERSEDED.fullmatch(path.name) and path.name != leaving
        if whole and path.is_dir() and not path.is_symlink():
            yield path


def size_of(folder: Path) -> int:
    """Bytes of the files below a directory."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir())


def _say_superseded(context: Context) -> None:
    for path in superseded(context.exp_dir):
        logging.info(
            "%s: an earlier run, %.0f MiB; lmu-asr clean removes such runs",
            path,
            size_of(path) / 2**20,
        )
