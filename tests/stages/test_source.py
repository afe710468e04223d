"""One source a name, and no source that is written to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lmu_asr.config import Config, CorpusConfig
from lmu_asr.config_files import save_config
from lmu_asr.errors import StageError
from lmu_asr.files import read_json
from lmu_asr.stages.common import Stage, main
from lmu_asr.stages.context import Context
from lmu_asr.stages.source import check_source, claim_source, source_name


def context(root: Path, source: str, name: str = "corp") -> Context:
    config = Config(corpus=CorpusConfig(name="own", source=source, id=name))
    return Context(config, root / "data", root / "exp", "own", nj=1)


def make(path: Path) -> str:
    path.mkdir(parents=True)
    return str(path)


def test_another_source_under_a_known_name_is_refused(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a" / "corp"), make(tmp_path / "b" / "corp")
    check_source(context(tmp_path, first))
    claim_source(context(tmp_path, first))
    check_source(context(tmp_path, first))
    (tmp_path / "link").symlink_to(first)
    check_source(context(tmp_path, str(tmp_path / "link")))  # the same place
    with pytest.raises(StageError, match=rf"{first}, not of source {second}.*corpus.id=NAME"):
        check_source(context(tmp_path, second))
    check_source(context(tmp_path, second, "other"))
    other_data = replace(context(tmp_path, second), data_root=tmp_path / "data2")
    with pytest.raises(StageError, match=r"remove .*exp/corp/source.json$"):
        check_source(other_data)  # exp/ is shared all the same
    for record in tmp_path.glob("*/corp/source.json"):
        record.unlink()  # as the message says, for data that have moved
    check_source(context(tmp_path, second))


@pytest.mark.parametrize("name", ["data", "exp"])
def test_a_file_in_the_place_of_a_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(StageError, match=rf"{name}: is no directory: choose another --{name}-dir"):
        check_source(context(tmp_path, make(tmp_path / "own")))


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    source = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    claim_source(context(tmp_path, source))
    check_source(context(tmp_path, source))
    with pytest.raises(StageError, match=r"corpus.id=NAME"):
        check_source(context(tmp_path, source + "x"))


@pytest.mark.parametrize("other", ["", "s3://bucket/corp"])
def test_a_corpus_that_is_fetched_is_another_source(tmp_path: Path, other: str) -> None:
    claim_source(context(tmp_path, other))
    check_source(context(tmp_path, other))
    with pytest.raises(StageError, match=r"corpus.id=NAME"):
        check_source(context(tmp_path, make(tmp_path / "corp")))


@pytest.mark.parametrize(
    "source", ["data/corp", "data", ".", "data/corp/list.csv", "data/corp/sub", "exp/corp"]
)
def test_no_source_is_written_to(tmp_path: Path, source: str) -> None:
    for name in ("data/corp/sub", "exp/corp"):
        make(tmp_path / name)
    (tmp_path / "data/corp/list.csv").write_text("id,audio,text\n")
    with pytest.raises(
        StageError, match=r"never written to.*take another --(data|exp)-dir"
    ) as found:
        check_source(context(tmp_path, str(tmp_path / source)))
    # another name helps unless all of data/ lies within the source
    assert ("corpus.id=NAME" in str(found.value)) == (source not in ("data", "."))


def test_a_link_to_the_source_is_the_source(tmp_path: Path) -> None:
    source = make(tmp_path / "elsewhere" / "corp")
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageError, match="never written to"):
        check_source(context(tmp_path, source))


def test_a_directory_of_the_user_beside_the_list_is_not_filled(tmp_path: Path) -> None:
    audio = Path(make(tmp_path / "data" / "corp"))
    (audio / "a.wav").touch()
    (tmp_path / "data" / "corp.csv").touch()
    mine = context(tmp_path, str(tmp_path / "data" / "corp.csv"))
    with pytest.raises(StageError, match=r"files of another origin \(a.wav\)"):
        check_source(mine)
    (audio / "fbank80").mkdir()
    check_source(mine)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100000])
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    claim_source(context(tmp_path, ""))
    (tmp_path / "data/corp/source.json").write_text(text)
    with pytest.raises(StageError, match=r"source.json: .*; remove it"):
        check_source(context(tmp_path, ""))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/a/corp", "corp"),
        ("/a/list.train.csv", "list"),
        ("s3://bucket/corp/", "corp"),
        ("/a/my (first) list#1.csv", "my _first_ list_1"),
        ("/a/-x", "x"),
        ("/a/.hidden.csv", "hidden"),
        ("/", "own"),
        ("/a/" + "x" * 200, "x" * 100),
        ("/a/Größe", "Größe"),
    ],
)
def test_names_of_sources_are_names(source: str, name: str) -> None:
    assert source_name(source) == name


def test_a_stage_records_the_source_when_it_has_run_and_refuses_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []
    stage = Stage(
        "download",
        "",
        lambda context: ran.append(context.config.corpus.source),
        stamp_dir=lambda context: context.corpus_dir,
        outputs=lambda context: (),
    )

    def start(source: str) -> int:
        save_config(context(tmp_path, source).config, tmp_path / "c.yaml")
        places = ["--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp")]
        return main(stage, ["--config", str(tmp_path / "c.yaml"), *places])

    first, second = make(tmp_path / "a" / "corp"), make(tmp_path / "b" / "corp")
    record = tmp_path / "data/corp/source.json"
    assert start(first) == 0 and read_json(record) == {"source": first}
    assert start(second) == 1 and ran == [first]
    assert f"not of source {second}" in capsys.readouterr().err
    for path in tmp_path.glob("*/corp/source.json"):
        path.unlink()
    assert start(first) == 0 and not record.exists()  # up to date: it may lie on a read-only disk
