"""Runs of earlier versions are taken over; superseded ones are named, and removed by one command."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from lmu_asr.checkpoints.checkpoint import save_checkpoint
from lmu_asr.config_files import save_config
from lmu_asr.config_paths import with_value
from lmu_asr.files import fingerprint, sha256_file, write_json
from lmu_asr.lang.lang import Lang
from lmu_asr.stages import clean, load_stage
from lmu_asr.stages.common import Context, current_stamp, run_stage, why_run
from lmu_asr.stages.runs import OWNER, claim_directory
from lmu_asr.stages.stamp import FORMAT, Stamp
from tests.stages.prepared import context_of

TRAIN = load_stage("train")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A run as an earlier version has left it: finished, with a stamp of another format."""
    context = context_of(tmp_path, "char")
    for split in ("train", "dev"):
        (context.features_dir / f"{split}_cuts.jsonl.gz").write_text(split)
    run_stage(load_stage("lang"), context)
    lang = Lang.load(context.lang_dir)
    cuts = [sha256_file(context.features_dir / f"{s}_cuts.jsonl.gz") for s in ("train", "dev")]
    identity = {"manifest": fingerprint(cuts), "tokens": fingerprint([lang.unit, lang.tokens])}
    meta = {"identity": {**identity, "config": {}}}
    context.exp_dir.mkdir(parents=True)
    save_checkpoint(context.exp_dir / "last.pt", {}, meta)
    save_checkpoint(context.exp_dir / "checkpoint-5.pt", {}, meta)
    save_config(context.config, context.exp_dir / "config.yaml")
    (context.exp_dir / "training.json").write_text("{}")
    record = {"parts": {"config train": "0", "tokens": "0"}, "code": "0"}
    write_json(context.exp_dir / OWNER, record)
    write_json(TRAIN.stamp_path(context), {"key": "0", "parts": record["parts"], "outputs": {}})
    return context


def changed(context: Context, key: str, value: object) -> Context:
    return replace(context, config=with_value(context.config, key, value))


def superseded(context: Context) -> list[str]:
    return [path.name for path in context.exp_dir.glob("superseded-*")]


def test_a_finished_run_is_taken_over(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert why_run(TRAIN, context, 4) is None
    assert not run_stage(TRAIN, context)
    assert "taken over from an earlier version" in caplog.text
    stamp = Stamp.load(TRAIN.stamp_path(context))
    assert stamp and stamp.format == FORMAT and stamp.key == current_stamp(TRAIN, context).key
    assert "last.pt" in stamp.contents and not superseded(context)
    owner = json.loads((context.exp_dir / OWNER).read_text())
    write_json(context.exp_dir / OWNER, {**owner, "code": "edited since"})
    claim_directory(context)
    assert len(superseded(context)) == 1


@pytest.mark.parametrize(
    ("key", "value"), [("train.lr", 1.0), ("seed", 7), ("model.dim", 8), ("features.dither", 0.5)]
)
def test_other_options_are_not_taken_over(context: Context, key: str, value: object) -> None:
    other = changed(context, key, value)
    if other.features_dir != context.features_dir:
        context.features_dir.rename(other.features_dir)
    assert "of an earlier version" in str(why_run(TRAIN, other, 4))
    claim_directory(other)
    assert len(superseded(context)) == 1


@pytest.mark.parametrize("name", ["train_cuts.jsonl.gz", "dev_cuts.jsonl.gz"])
def test_other_data_are_not_taken_over(context: Context, name: str) -> None:
    (context.features_dir / name).write_text("edited")
    assert why_run(TRAIN, context, 4) is not None


def test_a_run_under_way_goes_on(context: Context) -> None:
    for name in ("training.json", "last.pt"):
        (context.exp_dir / name).unlink()
    assert why_run(TRAIN, context, 4) is not None
    claim_directory(changed(context, "train.log_every", 3))
    assert not superseded(context)
    assert json.loads((context.exp_dir / OWNER).read_text())["format"] == FORMAT


def test_superseded_runs_are_named_and_removed(
    context: Context, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    claim_directory(changed(context, "seed", 7))
    old = context.exp_dir / superseded(context)[0]
    assert f"{old}: an earlier run, 0 MiB; lmu-asr clean" in caplog.text
    keep = [
        context.exp_dir / "superseded-by-me",
        context.exp_dir / "superseded-0123456g",
        old.parent.parent / old.name,
    ]
    for folder in keep:
        folder.mkdir()
    link = context.exp_dir / "superseded-01234567"
    link.symlink_to(keep[0])
    arguments = ["--exp-dir", str(context.exp_root)]
    assert clean.main([*arguments, "--dry-run"]) == 0 and old.is_dir()
    assert str(old) in capsys.readouterr().out
    assert clean.main(arguments) == 0 and not old.exists()
    assert all(folder.is_dir() for folder in keep) and link.is_symlink()
    assert capsys.readouterr().out.count("\n") == 2


def test_a_run_that_is_being_moved_stays(context: Context) -> None:
    moving = context.exp_dir / "superseded-01234567-2"
    moving.mkdir()
    write_json(context.exp_dir / OWNER, {"parts": {}, "code": "", "aside": moving.name})
    assert clean.main(["--exp-dir", str(context.exp_root)]) == 0 and moving.is_dir()


def test_clean_names_a_missing_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clean.main(["--exp-dir", str(tmp_path / "none")]) == 1
    assert "no such directory" in capsys.readouterr().err
