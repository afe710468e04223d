"""Folders of a bucket: fetched and written whole, kept where unchanged, errors that say what to do."""

from __future__ import annotations

import boto3
import pytest

from lmu_asr import remote
from lmu_asr.errors import RemoteError
from lmu_asr.remote import RemoteFolder, fetch_folder, is_remote, push_folder
from tests.data.speech import tree_bytes
from tests.s3 import s3_server

FILES = {"a.txt": b"one", "deep/er/b.bin": bytes(3_000_000), "empty": b""}


@pytest.fixture
def bucket(monkeypatch):
    with s3_server(monkeypatch):
        yield


@pytest.fixture
def filled(bucket):
    for name, content in FILES.items():
        boto3.client("s3").put_object(Bucket="speech", Key=f"corpus/{name}", Body=content)
    boto3.client("s3").put_object(Bucket="speech", Key="corpus/deep/", Body=b"")
    boto3.client("s3").put_object(Bucket="speech", Key="corpus2/other.txt", Body=b"no")
    return "s3://speech/corpus"


def test_what_is_remote():
    assert is_remote("s3://b/c") and not is_remote("/data/s3") and not is_remote("")


def test_fetched_once(filled, tmp_path):
    assert fetch_folder(filled, tmp_path) == 3
    assert tree_bytes(tmp_path) == FILES
    assert fetch_folder(filled + "/", tmp_path) == 0


def test_what_changed_is_fetched_again_and_what_is_gone_removed(filled, tmp_path):
    fetch_folder(filled, tmp_path)
    (tmp_path / "deep/er/b.bin").write_bytes(b"half")
    (tmp_path / ".a.txt.x.tmp").write_bytes(b"left by a killed run")
    boto3.client("s3").delete_object(Bucket="speech", Key="corpus/empty")
    assert fetch_folder(filled, tmp_path) == 1
    assert tree_bytes(tmp_path) == {k: v for k, v in FILES.items() if k != "empty"}


def test_interrupted_fetch_goes_on(filled, tmp_path, monkeypatch):
    get = RemoteFolder.get

    def failing(self, name, path, file):
        if name == "empty":
            raise RemoteError("the network went")
        get(self, name, path, file)

    monkeypatch.setattr(RemoteFolder, "get", failing)
    monkeypatch.setattr(remote, "TRANSFERS", 1)
    with pytest.raises(RemoteError, match="the network went"):
        fetch_folder(filled, tmp_path)
    monkeypatch.setattr(RemoteFolder, "get", get)
    assert fetch_folder(filled, tmp_path) == 1
    assert tree_bytes(tmp_path) == FILES


def test_object_cut_meanwhile_is_refused(filled, tmp_path):
    folder = RemoteFolder(filled)
    listed = folder.files()["a.txt"]
    boto3.client("s3").put_object(Bucket="speech", Key="corpus/a.txt", Body=b"o")
    with pytest.raises(RemoteError, match="1 bytes came, 3 were listed"):
        folder.get("a.txt", tmp_path / "a.txt", listed)
    assert list(tmp_path.iterdir()) == []


def test_pushed_and_removed(bucket, tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "z").write_bytes(b"zed")
    (tmp_path / ".hidden").write_bytes(b"stamp")
    assert push_folder(tmp_path, "s3://speech/out") == 1
    folder = RemoteFolder("s3://speech/out")
    assert [(n, f.size) for n, f in folder.files().items()] == [("x/y/z", 3)]
    folder.remove(["x/y/z"])
    assert folder.files() == {}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://speech/nothing", "nothing is below it"),
        ("s3://absent/corpus", "no such bucket"),
        ("s3:///corpus", "want s3://bucket/prefix"),
    ],
)
def test_wrong_addresses(bucket, tmp_path, url, message):
    with pytest.raises(RemoteError, match=message):
        fetch_folder(url, tmp_path)
    with pytest.raises(RemoteError, match="no such bucket"):
        RemoteFolder("s3://absent").put(__file__, "x")


def test_names_stay_inside(bucket, tmp_path):
    boto3.client("s3").put_object(Bucket="speech", Key="evil/../../out.txt", Body=b"x")
    with pytest.raises(RemoteError, match="would lie outside"):
        fetch_folder("s3://speech/evil", tmp_path)


def test_no_credentials(bucket, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(RemoteError, match=r"no credentials: set AWS_ACCESS_KEY_ID"):
        RemoteFolder("s3://speech/x").files()


def test_nobody_listens(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RemoteError, match=r"AWS_ENDPOINT_URL"):
        RemoteFolder("s3://speech/x").files()
