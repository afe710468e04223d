"""Where the audio is that lists name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lmu_asr.data.importing.remote_audio import cached_path
from lmu_asr.errors import DataError
from lmu_asr.remote import is_remote


def caller_dir() -> Path:
    """Return the directory that the user calls from: ``run.sh`` itself goes to the project."""
    return Path(os.environ.get("LMU_ASR_CALLER_DIR") or ".").absolute()


def resolve_audio(path: str, base: Path) -> Path:
    """Return where ``path`` is: as it is, beside the list, or in the directory of the caller.

    Tables of Common Voice name files of ``clips/`` beside them, without its name.
    """
    given = Path(path)
    if given.is_absolute() or exists(base / given):
        return base / given
    if exists(base / "clips" / given):
        return base / "clips" / given
    called = caller_dir() / given
    return called.resolve() if exists(called) else base / given


def exists(path: Path) -> bool:
    """Whether ``path`` is there; a name that no file can have is not."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or with NUL
        return False


def locate_audio(name: str, base: Path, cache: Path | None, where: Path | str) -> tuple[Path, str]:
    """Return where audio is or will be, and the ``s3://`` address that it is fetched from, if any.

    Raises:
        DataError: another address.
    """
    if is_remote(name):
        return cached_path(name, cache, str(where)), name
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        raise DataError(
            f"{where}: {name[:200]!r}: only s3:// addresses are fetched; download the audio, and name the file"
        )
    return resolve_audio(name, base), ""
