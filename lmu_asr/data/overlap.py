"""Utterances that two splits share: a score on what was trained or tuned on is no test result."""

from __future__ import annotations

import filecmp
import logging
import os
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from lhotse import Recording, SupervisionSegment

from lmu_asr.config import CorpusConfig
from lmu_asr.data.manifests import Manifests, recording_rows, supervision_rows
from lmu_asr.data.rows import Rows
from lmu_asr.errors import DataError

MOST_SHARED = 0.1  # of a split; a list with a few repeats is used, and they are counted
COVERED = 0.5  # of an utterance: neighbours in a recording may touch
Spans = dict[tuple[str, int], "tuple[array[float], array[float]]"]  # starts, ends of a channel


def refuse_shared(manifests: Mapping[str, Manifests], corpus: CorpusConfig) -> None:
    """Refuse dev and test splits of which a tenth or more is in training, and test sets in dev.

    Shared are the same seconds of the same file, and an utterance with the same name, text and bytes of its file.
    Fewer are counted on one line.

    Raises:
        DataError: with the option, both splits, the count and the first utterance.
    """
    tests = dict.fromkeys(corpus.test, "corpus.test")
    for other, wanted in ((corpus.train, {corpus.dev: "corpus.dev", **tests}), (corpus.dev, tests)):
        splits = {name: manifests[name] for name in wanted if name != other}
        for name, (count, first) in _shared(manifests[other], splits).items():
            total = len(manifests[name].supervisions)
            text = f"{count} of {total} utterances of '{name}' are in '{other}' too (the first: {first})"
            if count < MOST_SHARED * total:
                logging.warning("%s: their errors are not those of unseen speech", text)
                continue
            raise DataError(
                f"{wanted[name]}: {text}: a score on what was trained or tuned on is no result; "
                f"name another split with {wanted[name]}, or remove the repeats"
            )


def _shared(other: Manifests, splits: Mapping[str, Manifests]) -> dict[str, tuple[int, str]]:
    """Count the utterances of each split that ``other`` has too, and name the first."""
    files = {
        name: {r.id: path for r in part.recordings for path in _paths(r)}
        for name, part in splits.items()
    }
    wanted = {path for named in files.values() for path in named.values()}
    common = {r.id: path for r in other.recordings for path in _paths(r) if path in wanted}
    spans, rows = _spans(other, common), supervision_rows(other.supervisions)
    recordings = recording_rows(other.recordings)
    found = {}
    for name, part in splits.items():
        ids = [
            s.id
            for s in part.supervisions
            if _is_covered(s, files[name].get(s.recording_id, ""), spans)
            or _is_copy(s, files[name].get(s.recording_id, ""), rows.get(s.id), recordings)
        ]
        if ids:
            found[name] = len(ids), ids[0]
    return found


def _paths(recording: Recording) -> Iterator[str]:
    """Yield the one file of a recording; what has several or none is not compared."""
    if len(recording.sources) == 1 and recording.sources[0].type == "file":
        yield os.path.realpath(recording.sources[0].source)


def _spans(part: Manifests, files: Mapping[str, str]) -> Spans:
    """Return what is used of each channel of some files, by recording id."""
    spans: Spans = defaultdict(lambda: (array("d"), array("d")))
    for segment in part.supervisions if files else ():
        path = files.get(segment.recording_id)
        for channel in _channels(segment) if path else ():
            starts, ends = spans[str(path), channel]
            starts.append(segment.start)
            ends.append(segment.end)
    return spans


def _channels(segment: SupervisionSegment) -> list[int]:
    return segment.channel if isinstance(segment.channel, list) else [segment.channel]


def _is_covered(segment: SupervisionSegment, path: str, spans: Spans) -> bool:
    """Whether one utterance of the other split has the most of this one."""
    for channel in _channels(segment):
        if (path, channel) in spans:
            starts, ends = map(np.asarray, spans[path, channel])
            common = np.minimum(ends, segment.end) - np.maximum(starts, segment.start)
            if np.any(common > COVERED * segment.duration):
                return True
    return False


def _is_copy(
    segment: SupervisionSegment,
    path: str,
    found: SupervisionSegment | None,
    recordings: Rows[Recording],
) -> bool:
    """Whether an utterance of the same name has the same text, and its file the same bytes."""
    if found is None or found.text != segment.text or found.start != segment.start:
        return False
    recording = recordings.get(found.recording_id)
    try:
        return any(filecmp.cmp(path, other) for other in (_paths(recording) if recording else ()))
    except OSError:  # not there, which validation says
        return False
