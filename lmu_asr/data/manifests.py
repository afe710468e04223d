"""Recordings and supervisions of one split, as corpora and importers hand them on."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.data.audio.reader import recording_from_file
from lmu_asr.data.importing.ids import escaped
from lmu_asr.data.importing.pipes import Pipes, piped
from lmu_asr.data.importing.remote_audio import fetched
from lmu_asr.data.rows import Rows, names
from lmu_asr.errors import DataError
from lmu_asr.progress import progress
from lmu_asr.text_lines import plain_number

MOST_SPLITS = 100


@dataclass(frozen=True)
class Manifests:
    """Recordings and supervisions of one split, in a fixed order, on disk where they are many.

    Attributes:
        recordings: audio that could be opened.
        supervisions: utterances, also those whose audio could not.
        problems: reason by recording id, or by supervision id, of what could not be read.
        files: the audio files that a list names (:func:`file_key`), read or not.
        splits: the splits that a list's own column names, and where each is first.
        split_of: the split of each utterance by id, where there are such splits.
    """

    recordings: RecordingSet
    supervisions: SupervisionSet
    problems: Mapping[str, str] = field(default_factory=dict)
    files: Collection[str] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    split_of: Rows[tuple[str, str]] | None = None


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
        split: name of its split; empty where the list has no such column.
        where: place in the list, for messages.
        command: what prints the audio, which is kept in the file; empty: it is there.
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    start: float = 0.0
    end: float | None = None
    channel: int | None = None
    url: str = ""
    split: str = ""
    where: str = ""
    command: str = ""


Named = TypeVar("Named", Utterance, SupervisionSegment)


def segment_seconds(start: str, end: str, where: str) -> tuple[float, float]:
    """Return the start and the end that a line of a corpus gives its segment, in seconds.

    Raises:
        DataError: one of them is no number.
    """
    try:
        return plain_number(str(start)), plain_number(str(end))
    except ValueError as error:
        raise DataError(
            f"{where}: start and end are {start!r:.40} and {end!r:.40}, want seconds"
        ) from error


def file_key(path: str) -> str:
    """Return ``path`` with the links in its directory followed: the same for all names of a file."""
    folder, _, name = path.rpartition("/")
    return f"{_real(folder or '.')}/{name}"


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    try:
        return os.path.realpath(folder)
    except ValueError:  # a NUL, or half a surrogate pair from JSON: no directory has such a name
        return folder


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
    is_copy: bool = False


def from_utterances(
    utterances: Iterable[Utterance], name: str = "audio files", pipes: Pipes | None = None
) -> Manifests:
    """Open the header of each audio file once and return the manifests, held on disk.

    A recording that is one utterance has the utterance's id, one that is several its file's path.
    Files that cannot be opened are noted in ``problems``. Audio with an address is fetched first,
    and that of a command is made as ``pipes`` says.
    Names of utterances and speakers are escaped (:func:`escape_names`).

    Raises:
        DataError: an utterance without an id.
        RemoteError: the bucket of an address cannot be read.
    """
    listed = Rows(lambda u: str(u.audio), escape_names(utterances, name))
    recordings, problems = recording_rows(), {}
    headers: Rows[_Header] = Rows(lambda header: header.path)
    files = listed.count_keys()
    firsts = fetched(listed.firsts(), lambda item: (item[0].url, item[0].audio))
    with contextlib.closing(piped(firsts, _command_of, pipes)) as made:
        for (first, count), problem in progress(made, f"reading {name}", files, "file"):
            path = str(first.audio)
            recording_id = path if count > 1 or first.end is not None else first.id
            header = _Header(path, recording_id, is_copy=bool(first.url or first.command))
            try:
                recording = _opened(first, recording_id, problem)
                recordings.append(recording)
                header = replace(
                    header, seconds=recording.duration, channels=tuple(recording.channel_ids)
                )
            except DataError as error:
                problems[recording_id] = str(error)
            headers.append(header)
    segments = supervision_rows(_segment(u, headers) for u in listed)
    paths = (file_key(header.path) for header in headers if not header.is_copy)
    splits, split_of = _splits(listed)
    return Manifests(
        RecordingSet(recordings), SupervisionSet(segments), problems, names(paths), splits, split_of
    )


def escape_names(items: Iterable[Named], where: str) -> Iterator[Named]:
    """Escape what would break a line of fields in the ids and speakers of utterances, and say so.

    Raises:
        DataError: an utterance without an id.
    """
    count, first = 0, ""
    for given in items:
        speaker = given.speaker or ""
        written = escaped(given.id), escaped(speaker)
        if not given.id:
            raise DataError(f"{getattr(given, 'where', '') or where}: an utterance without an id")
        if written == (given.id, speaker):
            yield given
            continue
        count += 1
        first = first or " of ".join(filter(None, written))
        yield replace(given, id=written[0], speaker=written[1])
    if count:
        logging.warning(
            "%s: blanks, control characters and '%%' in the names of %d utterances or their speakers "
            "are written as %%XX, the bytes of UTF-8 (the first: %s)",
            where,
            count,
            first,
        )


def _splits(listed: Rows[Utterance]) -> tuple[dict[str, str], Rows[tuple[str, str]] | None]:
    """Return the splits that a list names, and the split of each utterance."""
    first = next(iter(listed), None)
    if first is None or not first.split:
        return {}, None
    places: dict[str, str] = {}
    for utterance in listed:
        if utterance.split not in places and len(places) == MOST_SPLITS:
            raise DataError(
                f"{utterance.where}: more than {MOST_SPLITS} different splits: is this the right column?"
            )
        places.setdefault(utterance.split, utterance.where)
    return places, Rows(lambda pair: pair[0], ((u.id, u.split) for u in listed))


def _command_of(item: tuple[Utterance, int]) -> tuple[str, Path]:
    return item[0].command, item[0].audio


def _opened(utterance: Utterance, recording_id: str, problem: str) -> Recording:
    if problem:
        raise DataError(problem)
    try:
        return recording_from_file(utterance.audio, recording_id)
    except DataError as error:
        if utterance.url:
            raise DataError(f"{utterance.url}: {error}") from error
        raise


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
