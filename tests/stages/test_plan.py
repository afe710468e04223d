"""What cannot work is named before any compute, all of it at once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lmu_asr.checkpoints.identity import shaping_options
from lmu_asr.config import Config
from lmu_asr.config_files import load_config, save_config
from lmu_asr.config_paths import absolute_paths, portable
from lmu_asr.errors import StageError
from lmu_asr.stages import checks, plan
from lmu_asr.stages.checks import missing
from lmu_asr.stages.context import Context

ALL = range(7)


def with_sets(*sets: str) -> Config:
    return load_config(None, sets)


@pytest.mark.parametrize(("key", "stages"), [(k, v[0]) for k, v in checks.READ_BY.items()])
def test_a_missing_path_is_named_where_a_stage_reads_it(
    key: str, stages: tuple[int, ...], tmp_path: Path
) -> None:
    config = with_sets(f"{key}={tmp_path / 'none'}")
    (found,) = missing(config, ALL)
    assert f"{tmp_path / 'none'}: No such file or directory" in found and f"({key})" in found
    for number in ALL:
        assert bool(missing(config, range(number, number + 1))) == (number in stages)


def test_a_file_for_a_directory_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for key, (_, kind) in checks.READ_BY.items():
        faults = [
            bool(missing(with_sets(f"{key}={p}"), ALL)) for p in (tmp_path, tmp_path / "file")
        ]
        assert faults == [kind == "file", kind == "directory"], key
    assert missing(with_sets(f"lm.text={'x' * 300}"), ALL)  # no traceback of the system's
    assert missing(with_sets("lm.text=a/../\0"), ALL)


def test_the_checkpoint_may_be_made_by_training_itself(tmp_path: Path) -> None:
    config = with_sets(f"decode.checkpoint={tmp_path / 'x.pt'}")
    assert not missing(config, ALL) and len(missing(config, range(5, 6))) == 1
    assert not missing(with_sets("decode.checkpoint=last"), range(5, 6))


@pytest.mark.parametrize(
    ("override", "package"), [(f"{k}={v[0]}", name) for k, v, name, *_ in checks.PACKAGES]
)
def test_a_package_that_is_not_installed_is_named(
    override: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_installed", lambda name: name != package)
    encoder = "lmu_parallel" if "lmu_parallel" in override else "lmu"
    config = with_sets(override, f"model.encoder={encoder}")
    (found,) = missing(config, ALL)
    assert found.startswith(f"{override}: {package} is not installed: ")
    assert not missing(config, range(6, 7))
    monkeypatch.setattr(checks, "_installed", lambda name: True)
    assert not missing(config, ALL)


def test_buckets_want_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_installed", lambda name: name != "boto3")
    config = with_sets("corpus.source=s3://b/x", "train.shar=s3://b/y", "train.remote=s3://b/z")
    assert len(missing(config, ALL)) == 3 and not missing(config, range(1, 4))


def run_plan(tmp_path: Path, config: Config, *arguments: str) -> int:
    save_config(config, tmp_path / "c.yaml")
    places = ["--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp")]
    return plan.main(["--config", str(tmp_path / "c.yaml"), *places, *arguments])


def test_the_plan_names_every_fault_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = with_sets("lm.text=/no/text", "train.init_from=/no/best.pt")
    assert run_plan(tmp_path, config, "--ngpu", "999") == 1
    errors = capsys.readouterr().err
    for fault in ("/no/text", "/no/best.pt", "--ngpu 999: this machine has"):
        assert errors.count(fault) == 1
    assert "stage 0 (download): would run: not made yet" in caplog.text
    assert "stage 6 (results): would run: after stage 5 (decode)" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yaml"]


def test_a_stage_whose_predecessor_has_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_plan(tmp_path, Config(), "--stage", "0", "--stop-stage", "1") == 0
    assert run_plan(tmp_path, Config(), "--stage", "3") == 1
    assert "stage 3 (graph): needs stage 1 (features) first" in capsys.readouterr().err


def test_paths_are_those_of_the_caller_or_of_the_project() -> None:
    config = with_sets("lm.text=a.txt", "lang.lexicon=b.txt", "corpus.source=s3://b/c")
    found = absolute_paths(config, {"lm.text"}, Path("/caller"), Path("/project"))
    assert found.lm.text == "/caller/a.txt" and found.lang.lexicon == "/project/b.txt"
    assert found.corpus.source == "s3://b/c" and found.decode.checkpoint == "best"
    given = absolute_paths(
        with_sets("decode.checkpoint=x/best.pt", "lm.arpa=/z"),
        {"decode.checkpoint", "lm.arpa"},
        Path("/caller"),
        Path("/project"),
    )
    assert (given.decode.checkpoint, given.lm.arpa) == ("/caller/x/best.pt", "/z")


def test_a_project_that_is_moved_keeps_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_sets("train.init_from=/here/exp/a/b/best.pt")
    moved = with_sets("train.init_from=/there/exp/a/b/best.pt")
    assert shaping_options(config) != shaping_options(moved)
    monkeypatch.setattr("lmu_asr.config_paths.PROJECT", Path("/here"))
    options = shaping_options(config)
    monkeypatch.setattr("lmu_asr.config_paths.PROJECT", Path("/there"))
    assert shaping_options(moved) == options
    assert portable("variant", "/there/x") == "/there/x"
    assert shaping_options(replace(moved, seed=1)) != options


def test_what_every_stage_stumbles_over_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object) -> None:
        raise StageError("the same")

    monkeypatch.setattr(plan, "say_plan", stumble)
    context = Context(Config(), Path("data"), Path("exp"), "", 1)
    assert plan._plan(context, ALL) == ["stage 0 (download): the same"]


def test_a_file_that_cannot_be_read_twice_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    readable = [key for key, (_, kind) in checks.READ_BY.items() if "file" in kind]
    for key in readable:
        for path, kind in ((tmp_path / "fifo", "FIFO"), (Path("/dev/null"), "device")):
            (found,) = missing(with_sets(f"{key}={path}"), ALL)
            assert found.startswith(f"{path}: is a {kind}") and "save what it gives" in found
            assert found.endswith(f"({key})")


def test_own_data_that_are_not_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(tmp_path, with_sets("corpus.name=own")) == 1
    assert "corpus.source is empty: name your data with --data PATH" in capsys.readouterr().err
    assert not missing(with_sets("corpus.name=own"), range(2, 7))
