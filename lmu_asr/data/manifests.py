"""Recordings and supervisions of one split, as corpora and importers hand them on."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.data.audio import recording_from_file
from lmu_asr.errors import DataError
from lmu_asr.progress import progress


@dataclass(frozen=True)
class Manifests:
    """Recordings and supervisions of one split, in a fixed order.

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
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    start: float = 0.0
    end: float | None = None
    channel: int | None = None


def file_key(path: str) -> str:
    """Return ``path`` with the links in its directory followed: the same for all names of a file."""
    folder, _, name = path.rpartition("/")
    return f"{_real(folder or '.')}/{name}"


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def say_untranscribed(names: Iterable[str], where: Path | str) -> int:
    """Say on one line how many audio files are passed over for want of a transcript; returns it.

    Args:
        names: their ids, or their names without suffix.
        where: the corpus.
    """
    remaining = iter(names)
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


def from_utterances(utterances: Iterable[Utterance], name: str = "audio files") -> Manifests:
    """Open the header of each audio file once and return the manifests.

    A recording that is one utterance has the utterance's id, one that is several its file's path.
    Files that cannot be opened are noted in ``problems``.
    """
    utterances = list(utterances)
    ids: dict[Path, str] = {}
    for u in utterances:
        ids[u.audio] = str(u.audio) if u.audio in ids or u.end is not None else u.id
    recordings: dict[str, Recording] = {}
    problems: dict[str, str] = {}
    for path, recording_id in progress(ids.items(), f"reading {name}", len(ids), "file"):
        try:
            recordings[recording_id] = recording_from_file(path, recording_id)
        except DataError as error:
            problems[recording_id] = str(error)
    segments = (_segment(u, ids[u.audio], recordings.get(ids[u.audio])) for u in utterances)
    return Manifests(
        RecordingSet.from_recordings(recordings.values()),
        SupervisionSet.from_segments(segments),
        problems,
        {file_key(str(path)) for path in ids},
    )


def _segment(
    utterance: Utterance, recording_id: str, recording: Recording | None
) -> SupervisionSegment:
    length = recording.duration if recording else 0.0
    end = length if utterance.end is None else utterance.end
    channels = list(recording.channel_ids) if recording else [0]
    whole = channels[0] if len(channels) == 1 else channels
    return SupervisionSegment(
        id=utterance.id,
        recording_id=recording_id,
        start=utterance.start,
        duration=round(end - utterance.start, ndigits=8),
        channel=whole if utterance.channel is None else utterance.channel,
        text=utterance.text,
        speaker=utterance.speaker or None,
    )
