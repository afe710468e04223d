"""Files appear whole or not at all, and the same content gives the same bytes."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmu_asr.errors import DataError
from lmu_asr.files import (
    atomic_open,
    atomic_path,
    atomic_write_text,
    files_below,
    fingerprint,
    read_json,
    remove_leftovers,
    sha256_file,
    write_json,
    write_jsonl,
)


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_open(path) as stream:
        stream.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_sigkill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write_text(path, "old")
    code = (
        "import sys,time\nfrom lmu_asr.files import atomic_open\n"
        f"with atomic_open({str(path)!r}) as s:\n"
        "    s.write('new' * 100000); s.flush(); print('half', flush=True); time.sleep(600)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"half\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert path.read_text() == "old"


def test_a_file_size_limit_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write_text(path, "old")
    code = (
        "import resource,signal\nfrom lmu_asr.files import atomic_write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"try: atomic_write_text({str(path)!r}, 'x' * 5000)\n"
        "except OSError as e: print(e.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == errno.EFBIG
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_gzip_bytes_depend_on_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"a": i, "b": "ß"} for i in range(100)]
    assert write_jsonl(tmp_path / "a.jsonl.gz", items) == 100
    monkeypatch.setattr(time, "time", lambda: 86400.0)
    write_jsonl(tmp_path / "b.jsonl.gz", items)
    assert sha256_file(tmp_path / "a.jsonl.gz") == sha256_file(tmp_path / "b.jsonl.gz")
    text = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode()
    assert text.startswith('{"a": 0, "b": "ß"}\n')


def test_json_and_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "d/a.json", {"b": 1, "a": [1.5]})
    assert read_json(tmp_path / "d/a.json") == {"a": [1.5], "b": 1}
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "d/a.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_temporary_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.jsonl.gz") as temporary:
        assert temporary.name.endswith(".jsonl.gz")
    assert (tmp_path / "x.jsonl.gz").is_file()


def test_fingerprint_ignores_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1})


def test_names_that_are_not_utf8_are_written_and_read_back(tmp_path: Path) -> None:
    item = {"source": "caf\udce9/ä.wav"}
    write_json(tmp_path / "a.json", item)
    assert read_json(tmp_path / "a.json") == item
    write_jsonl(tmp_path / "a.jsonl", [{"ä": 1}, item])
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"ä": 1}, item]
    assert lines[0] == '{"ä": 1}'
    assert fingerprint(item) != fingerprint({"source": "caf\udce8/ä.wav"})


def test_files_behind_links_are_found_once(tmp_path: Path) -> None:
    inside, disk = tmp_path / "corpus", tmp_path / "disk"
    for path in (inside / "z" / "1.txt", inside / "b.txt", disk / "s1" / "2.txt", disk / "3.wav"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (inside / "a").symlink_to(inside / "z")  # a second name
    (inside / "s1").symlink_to(disk / "s1")
    (inside / "circle").symlink_to(inside)
    (disk / "s1" / "up").symlink_to(inside / "s1")
    (inside / "c.wav").symlink_to(disk / "3.wav")
    (inside / "broken").symlink_to(inside / "gone")
    (inside / "itself").symlink_to(inside / "itself")
    found = sorted(str(path.relative_to(inside)) for path in files_below(inside))
    assert found == ["b.txt", "c.wav", "s1/2.txt", "z/1.txt"]
    assert [path.name for path in files_below(inside, "s1/*.txt")] == ["2.txt"]
    with pytest.raises(DataError, match="gone: cannot be read: No such file"):
        list(files_below(inside / "gone"))


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    kept = [".recogs-x.tmp.txt", ".hidden", "a.tmp", "x.abcdefgh.tmp", ".lock"]
    for name in (*kept, ".recogs-test.txt.a1b2c3d4.tmp.txt", "below/.x.lca.abcdefg_.tmp.lca"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert (tmp_path / "below/.x.lca.abcdefg_.tmp.lca").exists()
    remove_leftovers(tmp_path, deep=True)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    assert found == {*kept, "below"}


def test_a_temporary_file_that_another_run_removed_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, calls = os.replace, []

    def removed_once(source: str, target: Path) -> None:
        calls.append(source)
        if len(calls) == 1:
            os.unlink(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", removed_once)
    write_json(tmp_path / "a.json", [1])
    assert read_json(tmp_path / "a.json") == [1] and len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
