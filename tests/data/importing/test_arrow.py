"""Parquet files, and directories as ``save_to_disk`` leaves them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora import get_corpus
from lmu_asr.data.importing.importers import import_data
from lmu_asr.data.manifests import Manifests
from lmu_asr.errors import DataError
from tests.data.speech import write_audio

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {f"c{i}": write_audio(folder / f"c{i}.flac", 0.2 + i / 100, i) for i in range(6)}


def row(path: Path, in_file: bool = True, **others: Any) -> dict[str, Any]:
    """A row as ``Audio()`` of datasets stores it."""
    data, name = (path.read_bytes(), path.name) if in_file else (None, str(path))
    return {"audio": {"bytes": data, "path": name}, "sentence": f"text of {path.stem}", **others}


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def saved(folder: Path, rows: list[dict[str, Any]], **state: Any) -> Path:
    """A directory as ``save_to_disk`` leaves it, in two files."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
    for i, name in enumerate(names):
        table = pa.Table.from_pylist(rows[i * len(rows) // 2 : (i + 1) * len(rows) // 2])
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def texts(found: Manifests) -> dict[str, str | None]:
    assert found.problems == {}
    return {s.id: s.text for s in found.supervisions}


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("door", ["parquet", "saved", "shards"])
def test_every_door(tmp_path, clips, door, in_file):
    rows = [row(path, in_file) for path in clips.values()]
    if door == "saved":
        source = saved(tmp_path / "set", rows)
    elif door == "parquet":
        source = parquet(tmp_path / "all.parquet", rows)
    else:
        source = tmp_path / "set"
        for i in range(2):
            parquet(source / f"part-{i}.parquet", rows[3 * i : 3 * i + 3])
    for _ in range(2):
        found = import_data(source, tmp_path / "cache")
        assert texts(found) == {name: f"text of {name}" for name in clips}
        written = {p: p.stat().st_ino for p in (tmp_path / "cache").rglob("*.flac")}
        assert len(written) == (6 if in_file else 0)
    for recording, path in zip(found.recordings, clips.values(), strict=True):
        assert Path(recording.sources[0].source).read_bytes() == path.read_bytes()
    import_data(source, tmp_path / "cache")
    assert written == {p: p.stat().st_ino for p in (tmp_path / "cache").rglob("*.flac")}


def test_paths_and_keys_as_in_other_lists(tmp_path, clips):
    rows = [
        {"id": f"k {i}", "path": str(path), "text": "x", "speaker": i, "split": "train"}
        for i, path in enumerate(clips.values())
    ]
    found = import_data(parquet(tmp_path / "a.parquet", rows))
    assert {s.id: s.speaker for s in found.supervisions} == {f"k%20{i}": f"{i}" for i in range(6)}
    assert list(found.splits) == ["train"]
    data = next(iter(clips.values())).read_bytes()
    found = import_data(parquet(tmp_path / "b.parquet", [{"audio": data, "text": "x"}]), tmp_path)
    assert texts(found) == {"b-00000001": "x"}


def test_splits_by_name(tmp_path, clips):
    """Of shards in ``data/``, and of a dictionary of data sets."""
    rows = [row(path) for path in clips.values()]
    hub, disk = tmp_path / "hub", tmp_path / "disk"
    for i in range(2):
        parquet(hub / "data" / f"train-{i:05d}-of-00002.parquet", rows[2 * i : 2 * i + 2])
    parquet(hub / "data" / "validation-00000-of-00001.parquet", rows[4:5])
    parquet(hub / "data" / "test-00000-of-00001.parquet", rows[5:])
    saved(disk / "train", rows[:4])
    saved(disk / "validation", rows[4:5])
    saved(disk / "test", rows[5:])
    (disk / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    config = CorpusConfig(name="own", s3_cache=str(tmp_path / "cache"))
    for source in (hub, disk):
        splits = get_corpus("own").manifests(config, source)
        found = {name: set(texts(part)) for name, part in splits.items()}
        assert found == {"train": {"c0", "c1", "c2", "c3"}, "dev": {"c4"}, "test": {"c5"}}
    (hub / "data" / "train-00001-of-00002.parquet").unlink()
    (hub / "data" / "train-00000-of-00002.parquet").rename(
        hub / "data/train-00000-of-00003.parquet"
    )
    parquet(hub / "data" / "train-00002-of-00003.parquet", rows[:1])
    with pytest.raises(DataError, match="2 of 3 files train-"):
        get_corpus("own").manifests(config, hub)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"audio": {"array": [0.1], "sampling_rate": 16000}, "text": "x"}],
            r"row 1: audio is neither",
        ),
        ([{"audio": "a.wav", "text": 7}], r"row 1: target is 7, want a text"),
        ([{"audio": "a.wav", "label": 7}], r"no column 'target' .*found audio, label"),
        ([{"audio": b"x", "text": "x"}], r"row 1: audio within a list is read by the recipe own"),
        ([{"audio": None, "text": "x"}], r"row 1: 'source' \(the audio\) is empty"),
    ],
)
def test_broken_rows(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        import_data(parquet(tmp_path / "a.parquet", rows))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_data_files": None}, "not what save_to_disk leaves"),
        ({"_data_files": []}, "no Parquet or Arrow file"),
        ({"_data_files": [{"filename": "../a.arrow"}]}, "outside the directory"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "gone.arrow: .*No such file"),
        ({"_indices_data_files": [{"filename": "a"}]}, "flatten_indices"),
    ],
)
def test_broken_states(tmp_path, clips, state, message):
    folder = saved(tmp_path / "set", [row(path, False) for path in clips.values()], **state)
    with pytest.raises(DataError, match=message):
        import_data(folder)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.binary(min_size=1, max_size=8), st.booleans())
def test_damage_is_an_error_or_harmless(tmp_path_factory, clips, place, new, cut):
    folder = tmp_path_factory.mktemp("damage")
    for path in (
        parquet(folder / "a.parquet", [row(path) for path in clips.values()]),
        saved(folder / "set", [row(path) for path in clips.values()]) / "data-00000-of-00002.arrow",
    ):
        data = path.read_bytes()
        start = round(place * len(data))
        path.write_bytes(data[:start] + (b"" if cut else new + data[start + len(new) :]))
        try:
            found = import_data(
                path if path.suffix == ".parquet" else path.parent, folder / "cache"
            )
            assert len(list(found.supervisions)) == 6
        except DataError as error:
            assert str(folder) in str(error)


def test_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"setup\.sh --with-extras"):
        import_data(tmp_path / "a.parquet")
