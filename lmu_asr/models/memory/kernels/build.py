"""Build and load the compiled parts: one shared library a source file, kept in the user's cache.

``LMU_ASR_NATIVE=0`` turns compiled parts off; ``CXX`` names the compiler; ``LMU_ASR_CACHE`` the
directory of built libraries, which must be the user's own. Without a compiler the same functions
run in torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from lmu_asr.files import atomic_path, fingerprint

FLAGS = (
    "-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno",
    "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi",
)  # fmt: skip


@functools.cache
def load_library(source: Path) -> ctypes.CDLL | None:
    """Return the library built from ``source`` (C++), or None where it cannot be built.

    The reason for None is logged once. The library's name holds a hash of source, flags,
    compiler and processor, so that a changed one is built anew.
    """
    if os.environ.get("LMU_ASR_NATIVE", "1") == "0":
        return None
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        logging.info("no C++ compiler: %s runs in torch, slower", source.name)
        return None
    try:
        return _built_and_loaded(source, compiler)
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        logging.warning("%s runs in torch: not built: %s", source.name, detail.strip()[:300])
        return None


def _built_and_loaded(source: Path, compiler: str) -> ctypes.CDLL:
    """Load the library from the cache, building it where it is not there yet.

    Code is loaded from there, so the directory and the file must be this user's alone. Where they
    are not, the library is built in a directory that no one else can enter, for this process.
    """
    about = [source.read_text(encoding="utf-8"), FLAGS, compiler, _version(compiler), _processor()]
    name = f"{source.stem}-{fingerprint(about)[:16]}.so"
    reason = "there is no home directory"
    for directory in _cache_directories():
        reason = _why_not_ours(directory)
        if reason:
            continue
        target = directory / name
        if not _is_ours(target):
            _compile(source, compiler, target)
        return _load(target)
    logging.warning("%s: built for this process alone: %s; set LMU_ASR_CACHE", source.name, reason)
    with tempfile.TemporaryDirectory(prefix="lmu_asr-") as fresh:  # 0700; loaded code stays
        target = Path(fresh) / name
        _compile(source, compiler, target)
        return _load(target)


def _why_not_ours(directory: Path) -> str:
    """Make ``directory`` and return why code must not be loaded from it; empty where it may be."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return f"{directory} is a link or a file"
        if status.st_uid != os.getuid():
            return f"{directory} belongs to another user"
        if status.st_mode & 0o022:  # others could write: made by this user with a wide umask
            directory.chmod(0o700)
        return "" if os.access(directory, os.W_OK | os.X_OK) else f"{directory} cannot be written"
    except OSError as error:
        return f"{directory}: {error.strerror}"


def _is_ours(library: Path) -> bool:
    """Whether a built library is a plain file that only this user can have written."""
    try:
        status = library.lstat()
    except FileNotFoundError:
        return False
    plain = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022
    return plain and status.st_uid == os.getuid()


def _compile(source: Path, compiler: str, target: Path) -> None:
    """Compile, then link without an OpenMP library: torch's own is already in the process."""
    with tempfile.TemporaryDirectory() as work, atomic_path(target) as library:
        piece = str(Path(work) / "part.o")
        _run([compiler, *FLAGS, "-c", str(source), "-o", piece])
        _run([compiler, "-shared", piece, "-o", str(library)])


def _load(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError:  # torch brought no OpenMP symbols: take the system's
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(library))


def _cache_directories() -> list[Path]:
    """The directory that the user names, else the one in the user's home."""
    if own := os.environ.get("LMU_ASR_CACHE"):
        return [Path(own)]
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # neither HOME nor an entry among the users
        return []
    return [home / "lmu_asr"]


def _version(compiler: str) -> str:
    return _run([compiler, "--version"])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout


def _processor() -> str:
    """Model and instruction sets: a library built for one processor may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
