"""Where the audio is that lists name."""

from __future__ import annotations

from pathlib import Path

from lmu_asr.data.remote_audio import cached_path
from lmu_asr.files import is_there
from lmu_asr.remote import is_remote


def resolve_audio(path: str, base: Path) -> Path:
    """Return where ``path`` is: as it is, beside the list that names it, or from here."""
    given = Path(path)
    if given.is_absolute() or is_there(base / given) or not is_there(given):
        return base / given
    return given.resolve()


def locate_audio(name: str, base: Path, cache: Path | None, where: Path | str) -> tuple[Path, str]:
    """Return where audio is or will be, and the ``s3://`` address that it is fetched from, if any."""
    if is_remote(name):
        return cached_path(name, cache, str(where)), name
    return resolve_audio(name, base), ""
