"""Downloads from a server that drops, lies and refuses; archives that are damaged or hostile."""

from __future__ import annotations

import errno
import hashlib
import io
import random
import socket
import tarfile
import urllib.error
import zipfile

import pytest

from lmu_asr.corpora import fetch
from lmu_asr.corpora.fetch import Archive, download, fetch_and_unpack, unpack
from lmu_asr.errors import DataError
from tests.corpora.server import serving

CONTENT = random.Random(1).randbytes(300_000)
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """A server with one file, and no waiting between tries."""
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(fetch, "BLOCK", 10_000)
    with serving() as running:
        running.files["/a.bin"] = CONTENT
        yield running


def get(server, tmp_path, digest=SHA):
    download([f"{server.base}/a.bin"], tmp_path / "a.bin", digest)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("digest", [SHA, MD5, ""])
def test_whole(server, tmp_path, digest):
    get(server, tmp_path, digest)
    get(server, tmp_path, digest)
    assert server.requests == [("/a.bin", None)]


@pytest.mark.parametrize("digest", [SHA, ""])
def test_dropped_connections_resume(server, tmp_path, digest):
    server.faults["/a.bin"] = [("drop", 100_000)] * 2
    get(server, tmp_path, digest)
    starts = [r for _, r in server.requests]
    assert starts[0] is None and starts[1:] == ["bytes=100000-", "bytes=200000-"]


def test_many_drops_are_patience_as_long_as_bytes_come(server, tmp_path):
    server.faults["/a.bin"] = [("drop", 10_000)] * 20
    get(server, tmp_path)
    assert server.count["/a.bin"] == 21


def test_interrupted_run_goes_on(server, tmp_path, monkeypatch):
    server.faults["/a.bin"] = [("drop", 100_000)]
    monkeypatch.setattr(fetch, "_wait", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    get(server, tmp_path)
    assert server.requests[-1] == ("/a.bin", "bytes=100000-")


def _interrupt(*args):
    raise KeyboardInterrupt


def test_server_without_ranges_starts_again(server, tmp_path):
    server.faults["/a.bin"] = [("drop", 100_000), "whole"]
    get(server, tmp_path)


def test_file_changed_on_the_server_between_tries(server, tmp_path):
    server.faults["/a.bin"] = [("drop", 100_000)]
    server.files["/a.bin"] = bytes(400_000)
    with pytest.raises(DataError, match="checksum"):
        download([f"{server.base}/a.bin"], tmp_path / "a.bin", SHA)
    server.files["/a.bin"] = CONTENT
    get(server, tmp_path)


def test_part_of_an_older_file_is_not_mixed_in(server, tmp_path, monkeypatch):
    server.faults["/a.bin"] = [("lie", bytes(200_000)[:150_000])]
    monkeypatch.setattr(fetch, "file_digest", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path)
    monkeypatch.undo()
    (tmp_path / "a.bin.part").write_bytes(bytes(100_000))
    get(server, tmp_path, "")


def test_part_longer_than_the_file(server, tmp_path):
    server.faults["/a.bin"] = [("drop", 100_000), 416]
    get(server, tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_waited_for(server, tmp_path, status, monkeypatch):
    waits = []
    monkeypatch.setattr(fetch.time, "sleep", waits.append)
    server.faults["/a.bin"] = [(status, {"Retry-After": "7"}), status]
    get(server, tmp_path)
    assert waits == [7.0, 0.0]


def test_server_that_stays_busy(server, tmp_path):
    server.faults["/a.bin"] = [429] * 100
    with pytest.raises(DataError, match=r"8 tries without a byte, the last: HTTP Error 429"):
        get(server, tmp_path)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "login"), (403, "may need a licence"), (404, "does not have it"), (410, "any more")],
)
def test_refusals_say_what_to_do(server, tmp_path, status, reason):
    server.faults["/a.bin"] = [status]
    with pytest.raises(
        DataError, match=rf"status {status}.*{reason}.*corpus.download_dir.*corpus.mirror"
    ):
        get(server, tmp_path)
    assert server.count["/a.bin"] == 1


def test_wrong_checksum_is_refused_and_nothing_is_left(server, tmp_path):
    server.files["/a.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=rf"checksum is sha256:[0-9a-f]+, {SHA} is wanted"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_next_mirror(server, tmp_path):
    server.files["/bad/a.bin"] = b"something else"
    urls = [f"{server.base}/{path}" for path in ("gone/a.bin", "bad/a.bin", "a.bin")]
    download(urls, tmp_path / "a.bin", SHA)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.0)
    with pytest.raises(DataError, match=r"8 tries.*refused"):
        download(["http://127.0.0.1:9/a.bin"], tmp_path / "a.bin", SHA)


def names(monkeypatch, code):
    """Let every look-up of a name fail; returns the waits."""
    waits = []

    def fail(*args, **kwargs):
        raise socket.gaierror(code, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(fetch.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize(("code", "tries"), [(socket.EAI_NONAME, 0), (socket.EAI_AGAIN, 1)])
def test_name_that_does_not_resolve_ends_at_once(tmp_path, monkeypatch, code, tries):
    waits = names(monkeypatch, code)
    with pytest.raises(
        DataError, match=r"a\.bin cannot be downloaded.*not known.*corpus\.download_dir=DIR"
    ):
        download(["http://no-such-host.invalid/a.bin"], tmp_path / "a.bin", SHA)
    assert waits == [1.0] * tries


def test_no_route_ends_at_once(tmp_path, monkeypatch):
    waits = names(monkeypatch, 0)

    def fail(*args, **kwargs):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(DataError, match=r"unreachable.*corpus\.download_dir"):
        download(["http://127.0.0.1:9/a.bin"], tmp_path / "a.bin", SHA)
    assert waits == [1.0]


def test_network_that_goes_away_is_waited_for(server, tmp_path, monkeypatch):
    server.faults["/a.bin"] = [("drop", 100_000)]
    real, fails = fetch._open, [socket.gaierror(socket.EAI_NONAME, "not known")] * 5

    def open_or_fail(request, part):
        if part.exists() and fails:
            raise urllib.error.URLError(fails.pop())
        return real(request, part)

    monkeypatch.setattr(fetch, "_open", open_or_fail)
    get(server, tmp_path)
    assert fails == []


def test_waiting_says_how_long(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    with pytest.raises(DataError, match="8 tries without a byte"):
        download(["http://127.0.0.1:9/a.bin"], tmp_path / "a.bin", SHA)
    said = [r.getMessage().partition("; ")[2] for r in caplog.records if "try" in r.getMessage()]
    assert said[0] == "try 2 of 8 in 1 s, given up after 127 s more of waiting"
    assert said[6] == "try 8 of 8 in 64 s, given up after 64 s more of waiting"


@pytest.mark.parametrize("address", ["nonsense", "foo://host/a", "http://[", "http://a b/c"])
def test_address_that_is_none_is_not_tried_again(tmp_path, monkeypatch, address):
    waits = names(monkeypatch, socket.EAI_NONAME)
    with pytest.raises(DataError, match=r"corpus\.mirror"):
        download([f"{address}/a.bin"], tmp_path / "a.bin", SHA)
    assert waits == []


@pytest.mark.parametrize("state", [b"", b"[]", b'{"url": 3}', b"[" * 5000, b"\xff"])
def test_damaged_note_beside_a_part_begins_anew(server, tmp_path, state):
    (tmp_path / "a.bin.part").write_bytes(b"x" * 50)
    (tmp_path / "a.bin.part.json").write_bytes(state)
    get(server, tmp_path)


def test_damaged_mark_unpacks_again(server, tmp_path):
    archive = archive_of(server, tar({"a.txt": b"one"}))
    (tmp_path / ".unpacked").mkdir()
    (tmp_path / ".unpacked" / "x.tar.gz.json").write_text("{")
    fetch_and_unpack([archive], [server.base], tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == b"one"


def test_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="GiB wanted"):
        get(server, tmp_path)


def tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def archive_of(server, content: bytes) -> Archive:
    server.files["/c/x.tar.gz"] = content
    return Archive("c/x.tar.gz", "sha256:" + hashlib.sha256(content).hexdigest())


def test_archive_is_unpacked_once(server, tmp_path):
    archive = archive_of(server, tar({"top/a.txt": b"one", "./top/b/c.txt": b"two"}))
    for _ in range(2):
        fetch_and_unpack([archive], [server.base], tmp_path)
        assert (tmp_path / "top" / "a.txt").read_bytes() == b"one"
        assert (tmp_path / "top" / "b" / "c.txt").read_bytes() == b"two"
    assert server.count["/c/x.tar.gz"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".unpacked", "top"]


def test_own_copy_is_used_checked_and_kept(server, tmp_path):
    archive = archive_of(server, tar({"a.txt": b"one"}))
    own = tmp_path / "own"
    own.mkdir()
    (own / "x.tar.gz").write_bytes(b"half of it")
    with pytest.raises(DataError, match="not the whole file"):
        fetch_and_unpack([archive], [server.base], tmp_path / "t", str(own))
    (own / "x.tar.gz").write_bytes(server.files["/c/x.tar.gz"])
    fetch_and_unpack([archive], [server.base], tmp_path / "t", str(own))
    assert (tmp_path / "t" / "a.txt").read_bytes() == b"one"
    assert (own / "x.tar.gz").exists() and server.requests == []


def test_damaged_archive_leaves_no_file(server, tmp_path):
    whole = tar({f"{i}.txt": random.Random(i).randbytes(5000) for i in range(20)})
    server.files["/c/x.tar.gz"] = whole[: len(whole) // 2]
    with pytest.raises(DataError, match=r"x.tar.gz: damaged archive.*delete it"):
        fetch_and_unpack([Archive("c/x.tar.gz")], [server.base], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar.gz"]


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt"])
def test_members_stay_inside(tmp_path, name):
    (tmp_path / "x.tar.gz").write_bytes(tar({name: b"x"}))
    with pytest.raises(DataError, match="lies outside"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "t")


def test_links_are_left_out_and_zip_is_read(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "x.tar").write_bytes(stream.getvalue())
    unpack(tmp_path / "x.tar", tmp_path / "t")
    assert list((tmp_path / "t").iterdir()) == []
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("d/e.txt", "three")
    unpack(tmp_path / "y.zip", tmp_path / "t")
    assert (tmp_path / "t" / "d" / "e.txt").read_text() == "three"
