"""Audio that lists name by s3:// addresses, from a server on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import pytest

from lmu_asr import remote
from lmu_asr.config import Config, CorpusConfig
from lmu_asr.corpora import get_corpus
from lmu_asr.data.importing.importers import import_data
from lmu_asr.data.importing.remote_list import fetch_list
from lmu_asr.errors import DataError, LmuAsrError, RemoteError
from lmu_asr.stages import configure, load_stage
from lmu_asr.stages.common import Context, main
from tests.data.speech import manifests, tree_bytes, write_audio
from tests.s3 import s3_server

NAMES = [f"u{i:02d}" for i in range(40)]  # more than are asked for at once


@pytest.fixture
def audio(tmp_path):
    return {
        name: write_audio(tmp_path / "wav" / f"{name}.flac", 0.3, i) for i, name in enumerate(NAMES)
    }


@pytest.fixture
def s3(monkeypatch, audio):
    with s3_server(monkeypatch):
        client = boto3.client("s3")
        for name, path in audio.items():
            client.upload_file(str(path), "speech", f"raw audio/{name}.flac")
        yield client


def url(name: str) -> str:
    return f"s3://speech/raw audio/{name}.flac"


def kaldi(folder: Path, names=NAMES) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "wav.scp").write_text("".join(f"{n} {url(n)}\n" for n in names))
    (folder / "text").write_text("".join(f"{n} text of {n}\n" for n in names))
    return folder


def json_lines(folder: Path, names=NAMES) -> Path:
    rows = [{"key": n, "source": url(n), "target": f"text of {n}"} for n in names]
    folder.mkdir(exist_ok=True)
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "list.jsonl"


def table(folder: Path, names=NAMES) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [f"{n}\t{url(n)}\ttext of {n}" for n in names]
    (folder / "list.tsv").write_text("\n".join(["key\tsource\ttarget", *lines]) + "\n")
    return folder / "list.tsv"


@pytest.mark.parametrize("door", [kaldi, json_lines, table])
def test_the_same_as_local_audio(s3, audio, tmp_path, door, caplog):
    cache = tmp_path / "cache"
    found = import_data(door(tmp_path / "list"), cache)
    wanted = manifests(audio, {n: f"text of {n}" for n in NAMES})
    assert [(s.id, s.duration, s.text) for s in found.supervisions] == [
        (s.id, s.duration, s.text) for s in wanted.supervisions
    ]
    for ours, theirs in zip(found.recordings, wanted.recordings, strict=True):
        assert ours.sources[0].source == str(cache / "speech" / "raw audio" / f"{ours.id}.flac")
        assert (ours.load_audio() == theirs.load_audio()).all()
    assert found.problems == {} and "without a transcript" not in caplog.text


def test_what_is_there_is_kept_and_what_changed_is_fetched(s3, audio, tmp_path, monkeypatch):
    cache, path = tmp_path / "cache", json_lines(tmp_path / "list")
    import_data(path, cache)
    got, get = [], remote.RemoteFolder.get
    monkeypatch.setattr(
        remote.RemoteFolder,
        "get",
        lambda self, name, *rest: (got.append(name), get(self, name, *rest)),
    )
    import_data(path, cache)
    assert got == []
    write_audio(audio["u03"], 0.7, seed=99)
    s3.upload_file(str(audio["u03"]), "speech", "raw audio/u03.flac")
    (cache / "speech" / "raw audio" / "u05.flac").write_bytes(b"half")
    found = {r.id: r.duration for r in import_data(path, cache).recordings}
    assert sorted(got) == ["raw audio/u03.flac", "raw audio/u05.flac"]
    assert found["u03"] == 0.7 and found["u05"] == 0.3


def test_an_object_that_is_gone_is_a_missing_file(s3, tmp_path):
    cache, path = tmp_path / "cache", json_lines(tmp_path / "list")
    import_data(path, cache)
    s3.delete_object(Bucket="speech", Key="raw audio/u07.flac")
    found = import_data(path, cache)
    assert list(found.problems) == ["u07"]
    assert found.problems["u07"].startswith(f"{url('u07')}: ")
    assert "no such file" in found.problems["u07"]
    assert not (cache / "speech" / "raw audio" / "u07.flac").exists()


def test_no_credentials(s3, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(RemoteError, match=r"no credentials: set AWS_ACCESS_KEY_ID"):
        import_data(json_lines(tmp_path / "list"), tmp_path / "cache")


def test_a_bucket_that_is_not_there(s3, tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"key": "a", "source": "s3://absent/a.wav", "target": "x"}))
    with pytest.raises(RemoteError, match=r"s3://absent/a.wav: there is no such bucket"):
        import_data(path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://speech", r"list.jsonl:1: want s3://bucket/key of an audio file, got 's3://speech'"),
        ("s3://speech/", r"want s3://bucket/key"),
    ],
)
def test_addresses_that_name_nothing(tmp_path, source, message):
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"key": "a", "source": source, "target": "x"}))
    with pytest.raises(DataError, match=message):
        import_data(path, tmp_path / "cache")
    with pytest.raises(DataError, match="by the recipe own"):
        path.write_text(json.dumps({"key": "a", "source": "s3://b/a.wav", "target": "x"}))
        import_data(path)
    with pytest.raises(RemoteError, match="outside the folder"):
        path.write_text(json.dumps({"key": "a", "source": "s3://b/../../a.wav", "target": "x"}))
        import_data(path, tmp_path / "cache")


def test_splits_of_one_list(s3, tmp_path):
    config = CorpusConfig(name="own", s3_cache=str(tmp_path / "cache"))
    splits = get_corpus("own").manifests(config, json_lines(tmp_path / "list"))
    assert sorted(s.id for part in splits.values() for s in part.supervisions) == NAMES


@pytest.mark.slow
def test_stage_1(s3, audio, tmp_path):
    """The same features as from local audio, kept below the corpus's data."""
    local = tmp_path / "local.jsonl"
    rows = [{"key": n, "source": str(p), "target": f"text of {n}"} for n, p in audio.items()]
    local.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, source in (("far", json_lines(tmp_path / "list")), ("near", local)):
        places = ["--exp-dir", str(tmp_path / "exp")]
        sets = ["--set", f"corpus.id={name}", "--set", "features.num_mel_bins=20"]
        assert configure.main(["--recipe", "own", "--data", str(source), *places, *sets]) == 0
        path = tmp_path / "exp" / name / "default" / "resolved.yaml"
        data = ["--data-dir", str(tmp_path / "data"), "--nj", "1"]
        for stage in ("download", "features"):
            assert main(load_stage(stage), ["--config", str(path), *data, *places]) == 0
    far, near = (tree_bytes(tmp_path / "data" / name / "fbank20") for name in ("far", "near"))
    assert (tmp_path / "data" / "far" / "s3" / "speech" / "raw audio" / "u00.flac").is_file()
    same = [name for name in near if name.endswith((".lca", "_text", "cmvn.json"))]
    assert len(same) > 6 and all(far[name] == near[name] for name in same)


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_one_list_as_the_source(s3, tmp_path, name):
    """Its audio beside it, below ``clips/``, of another bucket's folder, and missing."""
    sources = [f"./{NAMES[0]}.flac", f"{NAMES[1]}.flac", url(NAMES[2]), "gone.flac"]
    for source in ("", "clips/"):
        i = int(bool(source))
        s3.copy_object(
            Bucket="speech",
            Key=f"lists/{source}{NAMES[i]}.flac",
            CopySource=f"speech/raw audio/{NAMES[i]}.flac",
        )
    lines = [json.dumps({"id": f"u{i}", "audio": s, "text": "x"}) for i, s in enumerate(sources)]
    if name == "list.csv":
        lines = ["id,audio,text", *(f"u{i},{s},x" for i, s in enumerate(sources))]
    s3.put_object(Bucket="speech", Key=f"lists/{name}", Body="\n".join(lines).encode())
    path = tmp_path / "source" / name
    path.parent.mkdir()
    (path.parent / "old.flac").touch()
    for _ in range(2):
        assert fetch_list(f"s3://speech/lists/{name}", path) == 2
    assert sorted(p.name for p in path.parent.iterdir()) == ["clips", name, f"{NAMES[0]}.flac"]
    found = import_data(path, tmp_path / "cache")
    assert [r.id for r in found.recordings] == ["u0", "u1", "u2"]
    assert list(found.problems) == ["u3"]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("gone.csv", None, "gone.csv: there is no such object"),
        ("a.csv", "audio,text\n../b.wav,x\n", "would lie outside the folder"),
        ("a.csv", "words\nx\n", "no column 'source'"),
        ("my_cuts.jsonl", "{}", "name the folder"),
    ],
)
def test_lists_that_cannot_be_a_source(s3, tmp_path, name, body, message):
    if body:
        s3.put_object(Bucket="speech", Key=name, Body=body.encode())
    with pytest.raises(LmuAsrError, match=message):
        fetch_list(f"s3://speech/{name}", tmp_path / name)


def test_where_one_list_is_kept(tmp_path):
    def source_dir(source: str) -> Path:
        config = Config(corpus=CorpusConfig(name="own", id="corp", source=source))
        return Context(config, tmp_path, tmp_path, "", 1).source_dir

    assert source_dir("s3://b/x/list.csv") == tmp_path / "corp" / "source" / "list.csv"
    assert source_dir("s3://b/x/all.parquet") == tmp_path / "corp" / "source" / "all.parquet"
    assert source_dir("s3://b/x") == tmp_path / "corp" / "source"
