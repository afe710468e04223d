"""Recordings and supervisions of one split, as corpora and importers hand them on."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.data.audio import recording_from_file
from lmu_asr.data.remote_audio import fetched
from lmu_asr.data.rows import Rows, names
from lmu_asr.errors import DataError
from lmu_asr.progress import progress


@dataclass(frozen=True)
class Manifests:
    """Recordings and supervisions of one split, in a fixed order, on disk where they are many.

    Attributes:
        recordings: audio that could be opened.
        supervisions: utterances, also those whose audio could not.
        problems: reason by recording id, or by supervision id, of what could not be read.
        files: the audio files that a list names (:func:`file_key`), read or not.
    """

    recordings: RecordingSet
    supervisions: SupervisionSet
    problems: Mapping[str, str] = field(default_factory=dict)
    files: Collection[str] = ()


@dataclass(frozen=True)
class Utterance:
    """One utterance as a corpus lists it.

    Attributes:
        id: unique in the split.
        audio: its file.
        text: transcript.
        speaker: name of the speaker, empty when not known.
        start: seconds into the file.
        end: seconds into the file; None: its end.
        channel: channel of the file; None: all of them, averaged.
        url: ``s3://`` address that the file is fetched from; empty: it is there.
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    start: float = 0.0
    end: float | None = None
    channel: int | None = None
    url: str = ""


def file_key(path: str) -> str:
    """Return ``path`` with the links in its directory followed: the same for all names of a file."""
    folder, _, name = path.rpartition("/")
    return f"{_real(folder or '.')}/{name}"


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def say_untranscribed(untranscribed: Iterable[str], where: Path | str) -> int:
    """Say on one line how many audio files are passed over for want of a transcript; returns it.

    Args:
        untranscribed: their ids, or their names without suffix.
        where: the corpus.
    """
    remaining = iter(untranscribed)
    first = next(remaining, None)
    count = 0 if first is None else 1 + sum(1 for _ in remaining)
    if count:
        logging.warning(
            "%s: %d audio files without a transcript are not used (the first: %s)",
            where,
            count,
            first,
        )
    return count


def recording_rows(recordings: Iterable[Recording] = ()) -> Rows[Recording]:
    """Return recordings by id: those of a set that has them so, or copies."""
    kept = getattr(recordings, "data", recordings)
    return kept if isinstance(kept, Rows) else Rows(_id, recordings)


def supervision_rows(segments: Iterable[SupervisionSegment] = ()) -> Rows[SupervisionSegment]:
    """Return supervisions by id: those of a set that has them so, or copies."""
    kept = getattr(segments, "data", segments)
    return kept if isinstance(kept, Rows) else Rows(_id, segments)


def _id(item: Any) -> str:
    return str(item.id)


@dataclass(frozen=True)
class _Header:
    """What utterances need of an audio file; of one that cannot be read, no seconds."""

    path: str
    recording_id: str
    seconds: float = 0.0
    channels: tuple[int, ...] = (0,)
    url: str = ""


def from_utterances(utterances: Iterable[Utterance], name: str = "audio files") -> Manifests:
    """Open the header of each audio file once and return the manifests, held on disk.

    A recording that is one utterance has the utterance's id, one that is several its file's path.
    Files that cannot be opened are noted in ``problems``. Audio with an address is fetched first.

    Raises:
        RemoteError: the bucket of an address cannot be read.
    """
    listed = Rows(lambda u: str(u.audio), utterances)
    recordings, problems = recording_rows(), {}
    headers: Rows[_Header] = Rows(lambda header: header.path)
    files = listed.count_keys()
    firsts = fetched(listed.firsts(), lambda item: (item[0].url, item[0].audio))
    for first, count in progress(firsts, f"reading {name}", files, "file"):
        path = str(first.audio)
        recording_id = path if count > 1 or first.end is not None else first.id
        header = _Header(path, recording_id, url=first.url)
        try:
            recording = recording_from_file(first.audio, recording_id)
            recordings.append(recording)
            header = replace(
                header, seconds=recording.duration, channels=tuple(recording.channel_ids)
            )
        except DataError as error:
            problems[recording_id] = f"{first.url}: {error}" if first.url else str(error)
        headers.append(header)
    segments = supervision_rows(_segment(u, headers) for u in listed)
    paths = (file_key(header.path) for header in headers if not header.url)
    return Manifests(RecordingSet(recordings), SupervisionSet(segments), problems, names(paths))


def _segment(utterance: Utterance, headers: Rows[_Header]) -> SupervisionSegment:
    header = headers.get(str(utterance.audio)) or _Header("", "")
    end = header.seconds if utterance.end is None else utterance.end
    channels = list(header.channels)
    whole = channels[0] if len(channels) == 1 else channels
    return SupervisionSegment(
        id=utterance.id,
        recording_id=header.recording_id,
        start=utterance.start,
        duration=round(end - utterance.start, ndigits=8),
        channel=whole if utterance.channel is None else utterance.channel,
        text=utterance.text,
        speaker=utterance.speaker or None,
    )
