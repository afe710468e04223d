"""Import of Lhotse manifests: supervisions with their recordings, and cuts."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.utils import fastcopy

from lmu_asr.data.audio import with_counted_length
from lmu_asr.data.audio_paths import resolve_audio
from lmu_asr.data.manifests import Manifests, file_key, recording_rows, supervision_rows
from lmu_asr.data.rows import Rows, names
from lmu_asr.errors import DataError
from lmu_asr.text_lines import filled_lines


def read_lhotse(path: Path) -> Manifests:
    """Read Lhotse supervisions and the recordings beside them (the same name, ``recordings``).

    Raises:
        DataError: the recordings are missing, or a manifest is broken.
    """
    beside = path.with_name(path.name.replace("supervisions", "recordings"))
    if not beside.is_file():
        raise DataError(f"{path}: its recordings are not there: {beside.name}")
    recordings = _manifest(RecordingSet, beside)
    return _local(recordings, supervision_rows(_manifest(SupervisionSet, path)), path)


def read_cut_manifest(path: Path) -> Manifests:
    """Read Lhotse cuts: each supervision becomes an utterance of its recording.

    Raises:
        DataError: the manifest is broken, or holds cuts that are mixed or lack a recording.
    """
    recordings, supervisions = recording_rows(), supervision_rows()
    last = ""
    for cut in _manifest(CutSet, path):
        if not isinstance(cut, MonoCut) or cut.recording is None:
            raise DataError(
                f"{path}: cut '{cut.id}' is a {type(cut).__name__} "
                "without one recording; want MonoCut with recording"
            )
        if cut.recording.id != last:
            recordings.append(cut.recording)
            last = cut.recording.id
        for segment in cut.supervisions:
            start = max(0.0, cut.start + segment.start)
            duration = min(segment.duration, cut.end - start)
            changes = {"start": start, "duration": duration, "recording_id": cut.recording.id}
            supervisions.append(fastcopy(segment, channel=cut.channel, **changes))
    return _local((recording for recording, _ in recordings.firsts()), supervisions, path)


def is_cut_manifest(path: Path) -> bool:
    for _, line in filled_lines(path):
        return '"type"' in line and 'Cut"' in line
    return False


def _manifest(kind: Any, path: Path) -> Iterator[Any]:
    """Read a Lhotse manifest item by item, where it is JSON lines."""
    is_lines = path.name.endswith((".jsonl", ".jsonl.gz"))
    try:
        yield from kind.from_jsonl_lazy(path) if is_lines else kind.from_file(path)
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a whole Lhotse manifest: {error!r}") from error


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
        if not audio.is_file():
            problems[recording.id] = f"{audio}: no such file"
            continue
        files.append(file_key(str(audio)))
        here = fastcopy(recording, sources=[fastcopy(source, source=str(audio))])
        try:
            kept.append(with_counted_length(here))
        except DataError as error:
            problems[recording.id] = str(error)
    return Manifests(RecordingSet(kept), SupervisionSet(supervisions), problems, files)
