"""From raw audio on S3 to a trained checkpoint on S3, and on from there on another machine."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import pytest
import torch

from lmu_asr.checkpoints.checkpoint import load_checkpoint
from lmu_asr.checkpoints.identity import Identity
from lmu_asr.checkpoints.mirror import MirroredStore
from lmu_asr.data.shar.export import export_shar
from lmu_asr.errors import CheckpointError, RemoteError
from lmu_asr.stages import configure, load_stage
from lmu_asr.stages.common import main
from tests.corpora.test_whole_recipe import TINY, at_the_root  # noqa: F401
from tests.data.speech import write_audio
from tests.s3 import s3_server

MIRROR = "s3://speech/runs"
pytestmark = pytest.mark.slow


@pytest.fixture
def s3(monkeypatch, tmp_path):
    """A bucket that holds a corpus: a list and its audio."""
    with s3_server(monkeypatch):
        client, rows = boto3.client("s3"), []
        for i in range(40):
            write_audio(tmp_path / "u.wav", 0.5, i)
            client.upload_file(str(tmp_path / "u.wav"), "speech", f"raw/wav/u{i}.wav")
            rows.append(json.dumps({"key": f"u{i}", "source": f"wav/u{i}.wav", "target": "yes"}))
        client.put_object(Bucket="speech", Key="raw/list.jsonl", Body="\n".join(rows).encode())
        yield client


def names(s3) -> set[str]:
    found = s3.list_objects_v2(Bucket="speech", Prefix="runs/raw/default/")
    return {item["Key"].removeprefix("runs/raw/default/") for item in found.get("Contents", [])}


def run(work: Path, first: str, last: str, *sets: str) -> int:
    """Run stages on a machine of which nothing but ``work`` is there."""
    options = [o for value in (*TINY, "train.epochs=6", "train.max_duration=8", "train.max_steps=0",
                               "train.average=2", *sets) for o in ("--set", value)]  # fmt: skip
    place = ["--exp-dir", str(work / "exp")]
    data = ["--recipe", "own", "--data", "s3://speech/raw"]
    assert configure.main([*data, *place, *options]) == 0
    path = work / "exp" / "raw" / "default" / "resolved.yaml"
    stages = ("download", "features", "lang", "graph", "train", "decode", "results")
    for name in stages[stages.index(first) : stages.index(last) + 1]:
        arguments = ["--config", str(path), "--data-dir", str(work / "data"), *place, "--nj", "1"]
        if code := main(load_stage(name), arguments):
            return code
    return 0


def weights(work: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(work / "exp" / "raw" / "default" / "averaged.pt").tensors["model"]


def test_there_and_back(s3, tmp_path, monkeypatch):
    calm, lost, other = tmp_path / "calm", tmp_path / "lost", tmp_path / "other"
    assert run(calm, "download", "train") == 0
    assert names(s3) == set()
    # a machine that is lost after three of six epochs
    save, epochs = MirroredStore.save, []

    def save_until(self, *arguments, **options):
        save(self, *arguments, **options)
        assert self.wait()
        epochs.append(self.steps()[-1])
        if len(epochs) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(MirroredStore, "save", save_until)
    with pytest.raises(KeyboardInterrupt):
        run(lost, "download", "train", f"train.remote={MIRROR}")
    monkeypatch.setattr(MirroredStore, "save", save)
    assert f"checkpoint-{epochs[-1]}.pt" in names(s3) and "best.pt" in names(s3)
    # another machine, which has nothing
    assert run(other, "download", "results", f"train.remote={MIRROR}") == 0
    for name, value in weights(calm).items():
        assert torch.equal(value, weights(other)[name]), name
    rows = [
        [
            json.loads(line)
            for line in (w / "exp/raw/default/metrics.jsonl").read_text().splitlines()
        ]
        for w in (calm, other)
    ]
    assert [r["step"] for r in rows[0]] == [r["step"] for r in rows[1]]
    there = names(s3)
    assert {"averaged.pt", "best.pt", "metrics.jsonl", "training.json"} <= there
    assert {"decode/results.json", "decode/recogs-test-HLG.txt"} <= there
    here = other / "exp" / "raw" / "default"
    assert {n for n in there if n.endswith(".pt")} == {
        p.relative_to(here).as_posix() for p in here.rglob("*.pt") if p.name != "last.pt"
    }
    content = s3.get_object(Bucket="speech", Key="runs/raw/default/averaged.pt")["Body"].read()
    assert content == (here / "averaged.pt").read_bytes()


def test_training_from_shar_on_s3_needs_no_archives(s3, tmp_path, capsys):
    """A machine that has what stages 1 to 3 left, but not the training split's features."""
    shar = "train.shar=s3://speech/shar/train"
    assert run(tmp_path, "download", "graph") == 0
    features = tmp_path / "data" / "raw" / "fbank20"
    assert export_shar(features, "train", "s3://speech/shar") == 1
    for path in (features / "feats").glob("train-*"):
        path.unlink()
    assert run(tmp_path, "train", "train") == 1
    assert "train-00000" in capsys.readouterr().err
    assert run(tmp_path, "features", "results", shar) == 0
    assert not list((features / "feats").glob("train-*"))
    assert (tmp_path / "exp" / "raw" / "default" / "decode" / "results.json").is_file()
    next((features / "feats").glob("dev-*.lca")).unlink()
    assert run(tmp_path, "train", "train", shar) == 1
    assert "dev-00000" in capsys.readouterr().err


def test_a_mirror_of_another_run_is_refused(s3, tmp_path, capsys):
    assert run(tmp_path / "a", "download", "train", f"train.remote={MIRROR}") == 0
    before = names(s3)
    code = run(tmp_path / "b", "download", "train", f"train.remote={MIRROR}", "train.lr=1e-4")
    assert code == 1
    assert "train.lr" in (said := capsys.readouterr().err) and "train.remote" in said
    assert names(s3) == before
    assert not list((tmp_path / "b" / "exp" / "raw" / "default").glob("*.pt"))


def test_a_bucket_that_is_not_there_stops_before_training(s3, tmp_path, capsys):
    assert run(tmp_path, "download", "train", "train.remote=s3://absent/x") == 1
    assert "no such bucket" in capsys.readouterr().err
    assert not (tmp_path / "exp" / "raw" / "default" / "metrics.jsonl").exists()


def test_a_mirror_that_fails_meanwhile_is_said_and_training_goes_on(s3, tmp_path, caplog):
    store = MirroredStore(tmp_path, 2, f"{MIRROR}/x", Identity("m", "t", {}))
    assert store.latest_good() is None
    put, store.folder.put = store.folder.put, _fail
    store.save(1, {"model": {}}, {"identity": {"manifest": "m", "tokens": "t", "config": {}}})
    with pytest.raises(RemoteError, match="the network went"):
        store.wait()
    assert "training goes on" in caplog.text
    store.folder.put = put
    assert store.wait()
    fresh = tmp_path / "fresh"
    other = MirroredStore(fresh, 2, f"{MIRROR}/x", Identity("other", "t", {}))
    with pytest.raises(CheckpointError, match="another manifest"):
        other.latest_good()
    mine = MirroredStore(fresh, 2, f"{MIRROR}/x", Identity("m", "t", {}))
    assert mine.latest_good().path == fresh / "checkpoint-1.pt"


def _fail(path, name):
    raise RemoteError("the network went")
