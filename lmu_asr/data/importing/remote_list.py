"""One list on S3 as the source: fetched, with the audio that it names relative to itself."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmu_asr.data.importing.arrow import named_audio
from lmu_asr.data.importing.list_names import PARQUET
from lmu_asr.data.importing.remote_audio import fetched
from lmu_asr.data.importing.tables import column, list_rows
from lmu_asr.errors import DataError, RemoteError
from lmu_asr.files import files_below
from lmu_asr.progress import progress
from lmu_asr.remote import RemoteFolder, is_remote, is_same, safe_name

CLIPS = "clips"  # where Common Voice has the audio of a table


def fetch_list(url: str, path: Path) -> int:
    """Make ``path`` hold the list ``url``, and its directory the audio below the list's folder.

    Audio is kept where it has the object's size and time. What is not there stays missing, for
    validation to list. Files that the list does not name are removed.

    Returns:
        Number of audio files that are there.

    Raises:
        RemoteError: there is no such object, it cannot be read, or audio lies outside its folder.
        DataError: the list is broken, or is a manifest of Lhotse.
    """
    address, _, name = url.rpartition("/")
    folder = RemoteFolder(address)
    file = folder.find(name)
    if file is None:
        raise RemoteError(f"{url}: there is no such object (the address of a folder ends in /)")
    if not is_same(path, file):
        folder.get(name, path, file)
    there = {path.resolve()}
    wanted = dict.fromkeys(_relative(url, _audio(path)))
    missing = _fetch(address, path.parent, wanted, there)
    _fetch(address, path.parent, [posixpath.join(CLIPS, name) for name in missing], there)
    for old in list(files_below(path.parent)):
        if old.resolve() not in there:
            old.unlink()
    return len(there) - 1


def _audio(path: Path) -> Iterator[str]:
    """Yield the names of audio in a list."""
    if "supervisions" in path.name or "cuts" in path.name:
        raise DataError(
            f"{path.name}: a Lhotse manifest; name the folder that holds it and its audio"
        )
    if path.name.endswith(PARQUET):
        yield from named_audio(path)
        return
    for _, row in list_rows(path):
        name = column({key.strip().casefold(): value for key, value in row.items()}, "source")
        if isinstance(name, str):
            yield name  # what is none is refused when the list is read


def _relative(url: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if not is_remote(name) and not name.startswith("/"):
            yield safe_name(posixpath.normpath(name), url)


def _fetch(address: str, target: Path, names: Iterable[str], there: set[Path]) -> list[str]:
    """Fetch some objects below an address; returns those that are not there."""
    names = list(names)
    places = fetched(names, lambda name: (f"{address}/{name}", target / name))
    missing = []
    for name in progress(places, f"fetching from {address}", len(names), "file"):
        if (target / name).is_file():
            there.add((target / name).resolve())
        else:
            missing.append(name)
    return missing
