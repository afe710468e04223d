"""Import of Lhotse manifests: supervisions with their recordings, and cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lhotse import MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy

from lmu_asr.data.audio.reader import with_counted_length
from lmu_asr.data.importing.audio_paths import exists, resolve_audio
from lmu_asr.data.importing.tables import LARGEST_NUMBER, json_value
from lmu_asr.data.manifests import (
    Manifests,
    escape_names,
    file_key,
    recording_rows,
    supervision_rows,
)
from lmu_asr.data.rows import Rows, names
from lmu_asr.errors import DataError
from lmu_asr.text_lines import filled_lines, text_lines

T = TypeVar("T", Recording, SupervisionSegment, MonoCut)
LONGEST_RECORD, LONGEST_DOCUMENT = 1 << 22, 1 << 26  # bytes of a line, and of a whole .json


def read_lhotse(path: Path) -> Manifests:
    """Read Lhotse supervisions and the recordings beside them (the same name, ``recordings``).

    Raises:
        DataError: the recordings are missing, or a manifest is broken.
    """
    beside = path.with_name(path.name.replace("supervisions", "recordings"))
    if not beside.is_file():
        raise DataError(f"{path}: its recordings are not there: {beside.name}")
    recordings = _manifest(Recording, beside)
    return _local(
        recordings,
        supervision_rows(escape_names(_manifest(SupervisionSegment, path), path.name)),
        path,
    )


def read_cut_manifest(path: Path) -> Manifests:
    """Read Lhotse cuts: each supervision becomes an utterance of its recording.

    Raises:
        DataError: the manifest is broken, or holds cuts that are mixed or lack a recording.
    """
    recordings, supervisions = recording_rows(), supervision_rows()
    last = ""
    for cut in _manifest(MonoCut, path):
        if cut.recording.id != last:
            recordings.append(cut.recording)
            last = cut.recording.id
        for segment in cut.supervisions:
            start = max(0.0, cut.start + segment.start)
            duration = min(segment.duration, cut.end - start)
            changes = {"start": start, "duration": duration, "recording_id": cut.recording.id}
            supervisions.append(fastcopy(segment, channel=cut.channel, **changes))
    named = supervision_rows(escape_names(supervisions, path.name))
    return _local((recording for recording, _ in recordings.firsts()), named, path)


def is_cut_manifest(path: Path) -> bool:
    """Whether a file's first line is a cut."""
    for _, line in filled_lines(path, LONGEST_RECORD):
        return '"type"' in line and 'Cut"' in line
    return False


def _manifest(kind: type[T], path: Path) -> Iterator[T]:
    """Read a Lhotse manifest item by item, where it is JSON lines."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        for number, line in filled_lines(path, LONGEST_RECORD):
            where = f"{path}:{number}"
            yield _item(kind, json_value(line, where), where)
        return
    text = "\n".join(line for _, line in text_lines(path, longest=LONGEST_DOCUMENT))
    found = json_value(text, str(path))
    if not isinstance(found, list):
        raise DataError(f"{path}: not a Lhotse manifest: want a list of objects")
    yield from (_item(kind, value, f"{path}: item {n}") for n, value in enumerate(found, 1))


def _item(kind: type[T], value: Any, where: str) -> T:
    """Make an item of a manifest, with values of the types that it must have."""
    if kind is MonoCut and isinstance(value, dict) and value.get("type") not in ("MonoCut", "Cut"):
        raise DataError(
            f"{where}: cut '{value.get('id')}' is a {value.get('type')}; want MonoCut with recording: "
            "export mixed cuts and those of several channels to files first"
        )
    if kind is MonoCut and isinstance(value, dict) and not value.get("recording"):
        raise DataError(f"{where}: cut '{value.get('id')}' has no recording; want MonoCut with one")
    try:
        item = deserialize_item(value)
        if not isinstance(item, kind):
            raise TypeError(f"it is a {type(item).__name__}")
        _check(item)
        return item
    except (
        *(ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError),
        *(OverflowError, RecursionError, NotImplementedError, ArithmeticError),
    ) as error:
        raise DataError(f"{where}: not a {kind.__name__} of Lhotse: {error!r}"[:400]) from error


def _check(item: Any) -> None:
    """Raise TypeError where a value is of the wrong type: Lhotse takes anything."""
    fields = vars(item)
    if isinstance(item, Recording):
        if not all(type(n) is int and n > 0 for n in (item.num_samples, item.sampling_rate)):
            raise TypeError(f"num_samples {item.num_samples}, sampling_rate {item.sampling_rate}")
        if not all(isinstance(s.source, str) for s in item.sources if s.type == "file"):
            raise TypeError("a source that is no path")
    if isinstance(item, MonoCut):
        for part in (*item.supervisions, *([item.recording] if item.recording else [])):
            _check(part)
    for name in {"start", "duration"} & fields.keys():
        if type(fields[name]) not in (int, float) or not abs(fields[name]) < LARGEST_NUMBER:
            raise TypeError(f"{name} is {fields[name]!r}")
    for name in {"id", "recording_id", "text", "speaker"} & fields.keys():
        is_missing = fields[name] is None and name in ("text", "speaker")
        if not is_missing and not isinstance(fields[name], str):
            raise TypeError(f"{name} is {fields[name]!r}")
        if name == "text" and not is_missing:
            fields[name].encode()  # half of a surrogate pair is a ValueError
    channel = fields.get("channel", 0)
    if any(type(c) is not int for c in (channel if isinstance(channel, list) else [channel])):
        raise TypeError(f"channel is {channel!r}")


def _local(
    recordings: Iterable[Recording], supervisions: Rows[SupervisionSegment], path: Path
) -> Manifests:
    """Resolve the audio's paths and note what is missing; refuse what is not a file."""
    kept, problems, files = recording_rows(), {}, names()
    for recording in recordings:
        source = recording.sources[0] if len(recording.sources) == 1 else None
        if source is None or source.type != "file" or recording.transforms:
            raise DataError(
                f"{path}: recording '{recording.id}' is not one plain audio file; "
                "export it to files first"
            )
        audio = resolve_audio(source.source, path.resolve().parent)
        if not (exists(audio) and audio.is_file()):
            problems[recording.id] = f"{audio}: no such file"
            continue
        files.append(file_key(str(audio)))
        here = fastcopy(recording, sources=[fastcopy(source, source=str(audio))])
        try:
            kept.append(with_counted_length(here))
        except DataError as error:
            problems[recording.id] = str(error)
    return Manifests(RecordingSet(kept), SupervisionSet(supervisions), problems, files)
