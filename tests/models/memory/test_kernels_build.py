"""Code is loaded only from where this user alone can have put it."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmu_asr.models.memory.kernels import build

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A library of one function; caches and temporary files lie below ``tmp_path``."""
    path = tmp_path / "one.cpp"
    path.write_text('extern "C" int answer() { return 42; }\n')
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(build, "FLAGS", ("-fPIC",))
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("LMU_ASR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LMU_ASR_NATIVE", raising=False)
    build.load_library.cache_clear()
    yield path
    build.load_library.cache_clear()


def answer(source: Path) -> int:
    build.load_library.cache_clear()
    library = build.load_library(source)
    assert isinstance(library, ctypes.CDLL)
    return library.answer()


def built(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.so"))


def test_cache_is_made_for_this_user_alone(source: Path, tmp_path: Path) -> None:
    assert answer(source) == 42
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    library = built(tmp_path / "cache")[0]
    before = library.stat().st_mtime_ns
    assert answer(source) == 42 and library.stat().st_mtime_ns == before


def test_a_cache_that_others_could_write_is_closed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    assert answer(source) == 42
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", ["link", "writable", "link to a file"])
def test_a_library_that_another_may_have_written_is_built_anew(
    source: Path, tmp_path: Path, mode: str
) -> None:
    assert answer(source) == 42
    library = built(tmp_path / "cache")[0]
    library.unlink()  # it is loaded: its bytes must not change in place
    if mode == "writable":
        library.write_bytes(b"another's code")
        library.chmod(0o666)
    else:
        planted = tmp_path / "planted"
        planted.write_bytes(b"another's code")
        library.symlink_to(planted if mode == "link to a file" else tmp_path / "nowhere")
    assert answer(source) == 42
    assert not library.is_symlink() and library.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("kind", ["link", "file", "another's"])
def test_directory_that_is_not_ours_is_not_used(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    cache, planted = tmp_path / "cache", tmp_path / "planted"
    planted.mkdir()
    if kind == "link":
        cache.symlink_to(planted)
    elif kind == "file":
        cache.write_text("x")
    else:
        cache.mkdir()
        uid = os.getuid()
        monkeypatch.setattr(build.os, "getuid", lambda: uid + 1)
    with caplog.at_level(logging.WARNING):
        assert answer(source) == 42
    assert "built for this process alone" in caplog.text and str(cache) in caplog.text
    assert built(tmp_path) == []  # neither there, nor left among the temporary files


def test_without_a_home(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("LMU_ASR_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(build.Path, "home", no_home)
    assert answer(source) == 42
    assert "no home directory" in caplog.text
