"""What stands in an experiment directory when training starts: gone on with, or moved aside whole."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lmu_asr import lock
from lmu_asr.config import Config, TrainConfig
from lmu_asr.errors import StageError, TrainingError
from lmu_asr.lock import sole_run
from lmu_asr.stages import runs, train
from lmu_asr.stages.context import Context
from lmu_asr.stages.stamp import Stamp


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A run of which nothing but the stamp is known; the environment of no driver."""
    monkeypatch.delenv("LMU_ASR_RUN_ID", raising=False)
    monkeypatch.setattr(
        runs, "current_stamp", lambda _, c: Stamp("", {"seed": c.config.seed, "code": "1"})
    )
    return Context(Config(), tmp_path / "data", tmp_path / "exp", "mini", nj=1)


def claim(context: Context, **changes: object) -> None:
    runs.claim_directory(replace(context, **changes))  # type: ignore[arg-type]


def trained(context: Context, name: str) -> None:
    """What a finished run and a decode leave."""
    for file in ("best.pt", "training.json", "decode/results.json"):
        path = context.exp_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def kept(context: Context) -> dict[str, str]:
    """The run that each place holds, by its files."""
    found = {}
    for path in context.exp_dir.rglob("*"):
        if path.is_file() and path.read_text() in ("first", "second"):
            place = path.relative_to(context.exp_dir).parts[0]
            found[place if place.startswith("superseded-") else "."] = path.read_text()
    return found


def test_force_starts_anew_each_time_and_keeps_all(context: Context) -> None:
    claim(context)
    trained(context, "first")
    claim(context)
    assert kept(context) == {".": "first"}
    claim(context, force=True)
    assert set(kept(context).values()) == {"first"} and "." not in kept(context)
    trained(context, "second")
    claim(context)  # the line that goes on has no --force
    assert kept(context)["."] == "second"
    claim(context, force=True)
    assert sorted(kept(context).values()) == ["first", "second"] and "." not in kept(context)
    names = {p.name for p in context.exp_dir.iterdir() if not p.name.startswith("superseded-")}
    assert names == {"config.yaml", "places.json", ".train.started.json"}


def test_processes_that_a_launcher_starts_again_go_on(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(context)
    trained(context, "first")
    monkeypatch.setenv("LMU_ASR_RUN_ID", "a")
    claim(context, force=True)
    trained(context, "second")
    claim(context, force=True)
    assert kept(context)["."] == "second"
    monkeypatch.setenv("LMU_ASR_RUN_ID", "b")
    claim(context, force=True)
    assert "." not in kept(context)


@pytest.mark.parametrize("force", [True, False])
def test_a_move_that_was_killed_is_finished_by_the_next_run(
    context: Context, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(context)
    trained(context, "first")
    rename = Path.rename
    moved = []

    def killed(path: Path, target: Path) -> Path:
        moved.append(path.name)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        claim(context, force=True)
    assert "." in kept(context) and len(kept(context)) == 2  # half here, half there
    claim(context, force=force)
    assert list(kept(context).values()) == ["first"] and "." not in kept(context)


def test_other_settings_move_it_aside_without_force(context: Context) -> None:
    claim(context)
    trained(context, "first")
    claim(context, config=replace(context.config, seed=7))
    assert "." not in kept(context)
    saved = json.loads((context.exp_dir / ".train.started.json").read_text())
    assert saved["parts"] == {"seed": 7}


def test_a_run_at_work_is_not_moved(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(context)
    trained(context, "first")
    monkeypatch.setattr(lock, "sole_run", partial(sole_run, patience=0.0))
    monkeypatch.delenv("RANK", raising=False)
    with sole_run(context.exp_dir), pytest.raises(TrainingError, match="another process"):
        train.run(replace(context, force=True))
    assert kept(context) == {".": "first"}


def test_a_mirror_that_would_bring_the_old_run_back_is_refused(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"checkpoint-3.pt": None}

    class Folder:
        def __init__(self, url: str) -> None:
            assert url == "s3://bucket/runs/mini/default"

        def files(self) -> dict[str, None]:
            return files

    monkeypatch.setattr("lmu_asr.remote.RemoteFolder", Folder)
    config = replace(context.config, train=TrainConfig(remote="s3://bucket/runs"))
    claim(context, config=config)
    trained(context, "first")
    with pytest.raises(StageError, match=r"--force: s3://bucket/runs/mini/default mirrors"):
        claim(context, config=config, force=True)
    assert kept(context) == {".": "first"}
    files.clear()
    claim(context, config=config, force=True)
    assert "." not in kept(context)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"x"', "null"])
def test_a_broken_record_is_named(context: Context, text: str) -> None:
    claim(context)
    (context.exp_dir / ".train.started.json").write_text(text)
    with pytest.raises(StageError, match=r"\.train\.started\.json: not valid"):
        claim(context)
