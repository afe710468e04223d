"""Build and load the compiled parts: one shared library a source file, kept in the user's cache.

``LMU_ASR_NATIVE=0`` turns compiled parts off; ``CXX`` names the compiler; ``LMU_ASR_CACHE`` the
directory of built libraries. Without a compiler the same functions run in torch.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import shutil
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
        return _load(_built(source, compiler))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        logging.warning("%s runs in torch: not built: %s", source.name, detail.strip()[:300])
        return None


def _built(source: Path, compiler: str) -> Path:
    about = [source.read_text(encoding="utf-8"), FLAGS, compiler, _version(compiler), _processor()]
    name = f"{source.stem}-{fingerprint(about)[:16]}.so"
    for directory in _cache_directories():
        target = directory / name
        if target.is_file():
            return target
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _compile(source, compiler, target)
        except PermissionError:
            continue
        return target
    raise PermissionError("no directory to keep it in; set LMU_ASR_CACHE")


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
    own = os.environ.get("LMU_ASR_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    shared = Path(tempfile.gettempdir()) / f"lmu_asr-{os.getuid()}"
    return [Path(own)] if own else [home / "lmu_asr", shared]


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
