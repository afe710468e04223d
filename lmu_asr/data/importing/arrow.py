"""Import of Parquet files, and of directories that Hugging Face's ``datasets`` saved (Arrow).

The columns are those of other lists. Audio may be a path, or lie in the file itself, as a struct of
``bytes`` and ``path`` or as binary: such audio is written once to files named by their content.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmu_asr.data.audio.reader import is_audio
from lmu_asr.data.importing.audio_paths import locate_audio
from lmu_asr.data.importing.list_names import PARQUET
from lmu_asr.data.importing.tables import COLUMNS, Row, check_columns, json_value, kind, utterances
from lmu_asr.data.manifests import Manifests, Utterance, from_utterances
from lmu_asr.errors import DataError
from lmu_asr.files import atomic_write_bytes

if TYPE_CHECKING:
    import pyarrow

STATE, DATASET_DICT = "state.json", "dataset_dict.json"
TOGETHER = 16  # rows in memory, with their audio
EMBEDDED = "_audio"  # no bucket has this name, so that it can lie among them


def is_saved(folder: Path) -> bool:
    """Whether a directory is one data set that ``datasets`` saved."""
    return (folder / STATE).is_file()


def arrow_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a saved data set, in order.

    Raises:
        DataError: its list of files is broken, or holds rows in another order.
    """
    state = folder / STATE
    try:
        found = json_value(state.read_text(encoding="utf-8"), str(state))
        names = [str(item["filename"]) for item in found["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state}: not what save_to_disk leaves: {error!r}") from error
    if found.get("_indices_data_files") or found.get("_indices_files"):
        raise DataError(f"{state}: rows are selected by indices: save flatten_indices() of it")
    if any(Path(name).name != name for name in names):
        raise DataError(f"{state}: names a file outside the directory")
    return [folder / name for name in names]


def read_arrow(paths: Sequence[Path], cache: Path | None) -> Manifests:
    """Read the rows of several Parquet or Arrow files as one list.

    Args:
        paths: the files, in order.
        cache: where audio is kept that lies in them, or that they name by address.

    Raises:
        DataError: pyarrow is not installed, a file is broken or missing, or as with other lists.
    """
    if not paths:
        raise DataError("no Parquet or Arrow file")
    folder = paths[0].parent
    name = paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"
    parts = (_utterances(path, cache) for path in paths)
    return from_utterances(itertools.chain.from_iterable(parts), f"{folder}/{name}")


def _utterances(path: Path, cache: Path | None) -> Iterator[Utterance]:
    base = path.resolve().parent
    locate = functools.partial(locate_audio, base=base, cache=cache)
    return utterances(path, arrow_rows(path, cache), locate)


def arrow_rows(path: Path, cache: Path | None) -> Iterator[tuple[str, Row]]:
    """Yield where each row is, and its values by column, audio as the name of its file.

    Raises:
        DataError: pyarrow is not installed, or the file is broken.
    """
    known = set(itertools.chain.from_iterable(COLUMNS.values()))
    number = 0
    for batch in _batches(path):
        names = batch.schema.names
        if not number:
            check_columns(names, str(path))
        kept = batch.select([i for i, n in enumerate(names) if n.strip().casefold() in known])
        for start in range(0, kept.num_rows, TOGETHER):
            with _named_errors(path):
                rows = kept.slice(start, TOGETHER).to_pylist()
            for row in rows:
                number += 1
                yield f"{path}: row {number}", _with_files(path, number, row, cache)


def named_audio(path: Path) -> Iterator[str]:
    """Yield the names of audio that does not lie in the file itself."""
    for batch in _batches(path):
        folded = {name.strip().casefold(): i for i, name in enumerate(batch.schema.names)}
        used = [folded[name] for name in COLUMNS["source"] if name in folded][:1]
        for value in batch.column(used[0]).to_pylist() if used else ():
            has_name = isinstance(value, dict) and value.get("bytes") is None
            name = value.get("path") if has_name else value
            if isinstance(name, str):
                yield name


def _batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path}: needs pyarrow, which ./utils/setup.sh --with-extras installs"
        ) from error
    with _named_errors(path), pyarrow.memory_map(str(path)) as source:
        if path.name.endswith(PARQUET):
            yield from pyarrow.parquet.ParquetFile(source).iter_batches(TOGETHER)
            return
        try:
            # datasets saves Arrow's stream format, other tools its file format
            yield from pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            file = pyarrow.ipc.open_file(source)
            yield from (file.get_batch(i) for i in range(file.num_record_batches))


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Name the file in what pyarrow raises."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path}: not a whole Parquet or Arrow file: {reason}") from error


def _with_files(path: Path, number: int, row: Row, cache: Path | None) -> Row:
    """Replace audio in a row by the path of a file that holds it, and give the row a key."""
    where = f"{path}: row {number}"
    folded = {name.strip().casefold(): name for name in row}
    for name in (folded[n] for n in COLUMNS["source"] if n in folded):
        value = row[name]
        if isinstance(value, (dict, bytes)):
            given = value if isinstance(value, dict) else {"bytes": value}
            source, stem = _audio_file(where, given, cache), Path(str(given.get("path") or "")).stem
            key = stem or f"{path.stem}-{number:08d}"
            has_key = any(row[folded[n]] not in (None, "") for n in COLUMNS["key"] if n in folded)
            named = {} if has_key else {folded.get("key", "key"): key}
            return {**row, name: source, **named}
        if value is not None:
            break
    return row


def _audio_file(where: str, audio: dict[str, Any], cache: Path | None) -> str:
    """Return the path of audio that is a struct, and write its bytes where they are not yet."""
    data, path = audio.get("bytes"), audio.get("path")
    if data is None and isinstance(path, str):
        return path
    if not isinstance(data, bytes):
        found = ", ".join(f"{name}: {kind(value)}" for name, value in audio.items())
        raise DataError(
            f"{where}: audio is neither bytes nor a path ({found}): cast the column to Audio() of "
            "datasets before saving"
        )
    if cache is None:
        raise DataError(f"{where}: audio within a list is read by the recipe own (--data) alone")
    digest = hashlib.sha256(data).hexdigest()
    suffix = Path(str(path or "")).suffix.lower()
    file = cache / EMBEDDED / digest[:2] / (digest + (suffix if is_audio(f"a{suffix}") else ""))
    if not file.is_file() or file.stat().st_size != len(data):
        atomic_write_bytes(file, data)
    return str(file.resolve())
