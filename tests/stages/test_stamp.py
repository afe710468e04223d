"""A stage runs when, and only when, something that it depends on has changed."""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from lmu_asr.config import Config
from lmu_asr.config_paths import shaping, with_value
from lmu_asr.errors import StageError
from lmu_asr.options import SHAPES
from lmu_asr.stages import common, load_stage, stamp
from lmu_asr.stages.common import (
    NAMES,
    Context,
    Stage,
    main,
    make_parser,
    run_stage,
    say_plan,
    why_run,
)
from lmu_asr.stages.stamp import Stamp


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(Config(), tmp_path / "data", tmp_path / "exp", "mini", nj=1)


def make_stage(tmp_path: Path, **kwargs: object) -> tuple[Stage, list[int]]:
    calls: list[int] = []

    def run(context: Context) -> None:
        calls.append(1)
        context.corpus_dir.mkdir(parents=True, exist_ok=True)
        (context.corpus_dir / "out").write_text("x")

    stage = Stage(
        "features",
        "",
        run,
        stamp_dir=lambda c: c.corpus_dir,
        outputs=lambda c: (c.corpus_dir / "out",),
        inputs=lambda c: (tmp_path / "in",),
        **kwargs,  # type: ignore[arg-type]
    )
    return stage, calls


def change(context: Context, **values: object) -> Context:
    features = dataclasses.replace(context.config.features, **values)  # type: ignore[arg-type]
    return dataclasses.replace(
        context, config=dataclasses.replace(context.config, features=features)
    )


def test_another_text_rule_fetches_nothing(tmp_path: Path, context: Context) -> None:
    other = dataclasses.replace(context.config.corpus, text="as_is")
    changed = dataclasses.replace(context, config=dataclasses.replace(context.config, corpus=other))
    keys = [common.current_stamp(load_stage("download"), c).key for c in (context, changed)]
    assert keys[0] == keys[1]


def test_up_to_date_is_skipped(tmp_path: Path, context: Context) -> None:
    stage, calls = make_stage(tmp_path)
    assert run_stage(stage, context) and not run_stage(stage, context)
    corpus = dataclasses.replace(context.config.corpus, s3_cache="elsewhere", pipe_jobs=2)
    other = dataclasses.replace(context.config, corpus=corpus)
    assert not run_stage(stage, dataclasses.replace(context, config=other))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda out, source: out.unlink(),
        lambda out, source: out.write_text("longer"),
        lambda out, source: source.write_text("new"),
        lambda out, source: (out.parent / ".features.stamp.json").write_text("{"),
        lambda out, source: out.write_text("y"),  # of the same size
    ],
)
def test_changes_run_it_again(tmp_path: Path, context: Context, spoil: object) -> None:
    stage, calls = make_stage(tmp_path)
    run_stage(stage, context)
    spoil(context.corpus_dir / "out", tmp_path / "in")  # type: ignore[operator]
    assert run_stage(stage, context)
    assert not run_stage(stage, context)
    assert len(calls) == 2


def test_configuration_and_force(tmp_path: Path, context: Context) -> None:
    stage, calls = make_stage(tmp_path)
    run_stage(stage, context)
    assert run_stage(stage, change(context, num_mel_bins=40))
    assert run_stage(stage, dataclasses.replace(change(context, num_mel_bins=40), force=True))
    assert not run_stage(stage, change(context, num_mel_bins=40))
    assert len(calls) == 3


def test_dry_run_changes_nothing(tmp_path: Path, context: Context) -> None:
    stage, calls = make_stage(tmp_path)
    say_plan(stage, context, 0)
    assert why_run(stage, context, 0) == "not made yet"
    assert not calls and not context.corpus_dir.exists()


def test_dry_run_knows_what_the_stages_before_would_change(
    tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = make_stage(tmp_path)
    second = dataclasses.replace(
        first,
        name="lang",
        run=lambda _: None,
        outputs=lambda _: (),
        after=("features",),
    )
    monkeypatch.setattr("lmu_asr.stages.load_stage", lambda name: first)
    assert why_run(second, context, 0) == "after stage 1 (features)"
    with pytest.raises(StageError, match="--recipe mini --variant default --stage 1"):
        why_run(second, context, 2)
    run_stage(first, context)
    run_stage(second, context)
    assert why_run(second, context, 0) is None
    changed = change(context, num_mel_bins=40)
    assert why_run(second, changed, 0) == "after stage 1 (features)"
    assert why_run(second, changed, 2) is None


def test_a_failed_run_leaves_no_stamp(tmp_path: Path, context: Context) -> None:
    stage, _ = make_stage(tmp_path)
    run_stage(stage, context)

    def fail(context: Context) -> None:
        raise StageError("no")

    with pytest.raises(StageError):
        run_stage(dataclasses.replace(stage, run=fail), dataclasses.replace(context, force=True))
    assert not stage.stamp_path(context).exists()


def test_touched_output_counts_by_size_alone_where_asked(tmp_path: Path, context: Context) -> None:
    stage, calls = make_stage(tmp_path, outputs_by_size=True)
    run_stage(stage, context)
    os.utime(context.corpus_dir / "out", ns=(1, 1))
    assert not run_stage(stage, context)
    (context.corpus_dir / "out").write_text("longer")
    assert run_stage(stage, context) and len(calls) == 2


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_stage_before_its_input_names_the_missing_one(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("{}")
    status = main(
        load_stage(name),
        [
            "--config",
            str(config),
            "--data-dir",
            str(tmp_path / "d"),
            "--exp-dir",
            str(tmp_path / "e"),
        ],
    )
    assert status == 1
    assert "./run.sh --variant default --stage" in capsys.readouterr().err


def test_upstream_output_that_went_is_named(
    tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, _ = make_stage(tmp_path)
    monkeypatch.setattr("lmu_asr.stages.load_stage", lambda name: stage)
    run_stage(stage, context)
    (context.corpus_dir / "out").unlink()
    after = dataclasses.replace(stage, name="lang", after=("features",))
    with pytest.raises(StageError, match=r"needs .*out, which is missing"):
        common.current_stamp(after, context)


def test_full_disk_and_permissions_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("{}")
    arguments = ["--config", str(tmp_path / "c.yaml"), "--data-dir", str(tmp_path / "d")]

    def full(context: Context) -> None:
        raise OSError(28, "No space left on device", "x")

    stage, _ = make_stage(tmp_path)
    assert main(dataclasses.replace(stage, run=full), arguments) == 1
    assert "x: No space left on device; the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_help_names_every_key(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage = load_stage(name)
    with pytest.raises(SystemExit) as exit_:
        make_parser(stage).parse_args(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"Stage {stage.number}" in text
    sections = {section for section, stages in SHAPES.items() if name in stages} - {"seed"}
    assert all(f"{section}." in text for section in sections)


def test_unknown_option_has_status_2_and_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        make_parser(load_stage("lang")).parse_args(["--config", "x", "--data-dri", "y"])
    assert exit_.value.code == 2
    assert "did you mean --data-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "3", "{}", "[" * 5000, "\xff",
        '{"key": 1, "parts": {}, "outputs": {}}',
        '{"key": "k", "parts": [], "outputs": {}}',
        '{"key": "k", "parts": {}, "outputs": {"a": 3}}',
        '{"key": "k", "parts": {}, "outputs": {"a": ["x"]}}',
        '{"key": "k", "parts": {}, "outputs": [1]}',
    ],
)  # fmt: skip
def test_damaged_stamp_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text, encoding="latin-1")
    assert Stamp.load(tmp_path / "s.json") is None


def test_names_in_a_damaged_stamp(tmp_path: Path) -> None:
    damaged = Stamp("k", {}, {"a\0b": [1, 2], "x" * 5000: [1, 2]})
    assert len(damaged.broken_outputs(tmp_path)) == 2


def test_inputs_whose_names_are_not_utf8_are_watched(tmp_path: Path, context: Context) -> None:
    stage, calls = make_stage(tmp_path)
    path = tmp_path / "caf\udce9.wav"
    path.write_text("a")
    stage = dataclasses.replace(stage, inputs=lambda c: (path,))
    assert run_stage(stage, context) and not run_stage(stage, context)
    path.write_text("longer")
    assert run_stage(stage, context)
    assert len(calls) == 2


def copy(context: Context, tmp_path: Path) -> Context:
    """The run in a copy of everything, whose files have other times."""
    for name in ("data", "exp"):
        if (tmp_path / name).exists():
            shutil.copytree(
                tmp_path / name, tmp_path / "copy" / name, copy_function=shutil.copyfile
            )
    return dataclasses.replace(
        context, data_root=tmp_path / "copy/data", exp_root=tmp_path / "copy/exp"
    )


@pytest.mark.parametrize("late", [True, False])
def test_a_copy_is_up_to_date_and_read_once(
    tmp_path: Path, context: Context, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, calls = make_stage(tmp_path, late_inputs=late)
    (tmp_path / "in").write_text("source")
    run_stage(stage, context)
    other = copy(context, tmp_path)
    for path in (tmp_path / "in", tmp_path / "copy/data/mini/out"):
        os.utime(path, ns=(1, 1))
    assert why_run(stage, other, 1) is None
    assert not run_stage(stage, other) and len(calls) == 1
    stamp.content.cache_clear()
    monkeypatch.setattr(stamp, "sha256_file", None)  # what has the times of the stamp is not read
    assert not run_stage(stage, other)


@pytest.mark.parametrize("late", [True, False])
def test_another_content_of_the_same_size_is_seen(
    tmp_path: Path, context: Context, late: bool
) -> None:
    stage, calls = make_stage(tmp_path, late_inputs=late)
    source = tmp_path / "in"
    source.write_text("one")
    run_stage(stage, context)
    source.write_text("two")
    os.utime(source, ns=(5, 5))
    assert run_stage(stage, context) and not run_stage(stage, context)
    (context.corpus_dir / "out").write_text("y")
    os.utime(context.corpus_dir / "out", ns=(5, 5))
    assert run_stage(stage, context) and len(calls) == 3


def test_inputs_too_large_to_read_go_by_their_times(
    tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "MOST_READ", 2)
    stage, calls = make_stage(tmp_path)
    (tmp_path / "in").write_text("one")
    assert run_stage(stage, context) and not run_stage(stage, context)
    os.utime(tmp_path / "in", ns=(5, 5))
    assert run_stage(stage, context) and len(calls) == 2


def test_an_old_stamp_is_named_and_made_anew_once(tmp_path: Path, context: Context) -> None:
    stage, calls = make_stage(tmp_path)
    run_stage(stage, context)
    path = stage.stamp_path(context)
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({key: saved[key] for key in ("key", "parts", "outputs")}))
    assert "of an earlier version" in str(why_run(stage, context, 1))
    assert run_stage(stage, context) and not run_stage(stage, context) and len(calls) == 2


def test_edited_modules_are_named() -> None:
    old, new = (
        Stamp("", {"code": str(n), "inputs": "i"}, code={f"m{i}": str(n * i) for i in range(6)})
        for n in (1, 2)
    )
    assert new.changed(old) == ["code of m1, m2, m3 and 2 more"]


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("seed", 1, ["download", "train"]),
        ("corpus.minutes", 1.0, ["download"]),
        ("corpus.mirror", "x", ["download"]),
        ("corpus.pipe_jobs", 2, []),
        ("corpus.text", "plain", ["features", "decode"]),
        ("features.dither", 1.0, ["features", "train"]),
        ("lang.unit", "bpe", ["lang"]),
        ("lm.text", "x", ["lang", "graph"]),
        ("lm.prune", 1.0, ["graph"]),
        ("graph.topology", "modified", ["graph", "decode"]),
        ("graph.fsa", "k2", ["decode"]),  # of training by its facts
        ("model.dim", 8, ["train"]),
        ("augment.time_masks", 1, ["train"]),
        ("train.lr", 1.0, ["train"]),
        ("train.average", 2, ["train"]),
        *((f"train.{name}", 7, []) for name in ("log_every", "keep_last", "frame_limit", "shar_window")),
        ("train.num_workers", 7, ["plan"]),
        ("decode.beam", 7, ["decode"]),
        ("variant", "x", []),
    ],
)  # fmt: skip
def test_stages_that_an_option_shapes(key: str, value: object, stages: list[str]) -> None:
    config, other = Config(), with_value(Config(), key, value)
    names = (*NAMES, "plan")
    assert [n for n in names if shaping(config, n) != shaping(other, n)] == stages


def test_what_is_no_regular_file_counts_by_its_kind(tmp_path: Path) -> None:
    """A read of these would not end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert [stamp.content(str(p), 0, 0) for p in (fifo, "/dev/zero")] == ["FIFO", "device"]
    (tmp_path / "file").write_bytes(b"")
    assert stamp.content(str(tmp_path / "file"), 0, 0) == hashlib.sha256(b"").hexdigest()
