"""Validation before any compute: what is broken is dropped and listed, what can be repaired is.

Duplicate ids stop the run, for no one can say which of them is meant. A split that loses more than
half of its utterances, or all, stops it too.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.utils import fastcopy

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.importing.text_rule import TextChanges, TextRule
from lmu_asr.data.manifests import Manifests, recording_rows, supervision_rows
from lmu_asr.data.rows import Rows, names
from lmu_asr.errors import DataError

SHOWN = 5
OVERRUN_SECONDS = 0.1  # a segment that ends this little after its audio is shortened
LARGEST_DROPPED_SHARE = 0.5


@dataclass
class ValidationReport:
    """What validation and feature extraction found in one split.

    Attributes:
        split: name of the split.
        total: utterances in the manifest.
        dropped: (kind, detail) by utterance id, in the order found.
        repaired: the first utterance ids by kind of repair.
        repairs: utterances repaired, by kind.
        text: what the text rule changed.
    """

    split: str
    total: int = 0
    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)
    repaired: dict[str, list[str]] = field(default_factory=dict)
    repairs: Counter[str] = field(default_factory=Counter)
    text: TextChanges | None = None

    @property
    def dropped_ids(self) -> set[str]:
        """Ids of the utterances that are not used."""
        return set(self.dropped)

    def drop(self, utterance: str, kind: str, detail: str = "") -> None:
        """List an utterance as dropped; the first reason stays."""
        self.dropped.setdefault(utterance, (kind, detail or kind))

    def repair(self, utterance: str, kind: str) -> None:
        """List an utterance as repaired."""
        self.repairs[kind] += 1
        first = self.repaired.setdefault(kind, [])
        if len(first) < SHOWN:
            first.append(utterance)

    def summary(self) -> str:
        """Return counts by reason with the first ids of each, on one line."""
        parts = [f"{self.total - len(self.dropped)} of {self.total} utterances kept"]
        for kind, count in Counter(kind for kind, _ in self.dropped.values()).items():
            ids = [i for i, (k, _) in self.dropped.items() if k == kind]
            parts.append(f"{count} dropped: {kind} ({_first(ids, count)})")
        for kind, ids in self.repaired.items():
            count = self.repairs[kind]
            parts.append(f"{count} repaired: {kind} ({_first(ids, count)})")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the whole report for a JSON file."""
        return {
            "split": self.split,
            "total": self.total,
            "kept": self.total - len(self.dropped),
            "counts": dict(Counter(kind for kind, _ in self.dropped.values())),
            "dropped": {i: detail for i, (_, detail) in self.dropped.items()},
            "repaired": dict(self.repairs),
            "repaired_first": self.repaired,
            **({"text": self.text.to_json()} if self.text else {}),
        }

    def refuse_too_many(self) -> None:
        """Raise unless at least half of the split is left.

        Raises:
            DataError: with the counts and the first details.
        """
        kept = self.total - len(self.dropped)
        details = "; ".join(f"{i}: {d}" for i, (_, d) in list(self.dropped.items())[:SHOWN])
        if self.total == 0:
            raise DataError(
                f"split '{self.split}' is empty: the corpus has no utterance in it; name another "
                "with corpus.train, corpus.dev or corpus.test, or check the corpus's list"
            )
        if kept <= 0:
            found = f" First reasons: {details}" if details else ""
            raise DataError(f"split '{self.split}': no usable utterance of {self.total}.{found}")
        if len(self.dropped) > LARGEST_DROPPED_SHARE * self.total:
            raise DataError(
                f"split '{self.split}': {len(self.dropped)} of {self.total} utterances are not "
                f"usable, more than {LARGEST_DROPPED_SHARE:.0%}: repair the data. "
                f"First reasons: {details}"
            )


def _first(ids: list[str], count: int) -> str:
    return ", ".join(ids[:SHOWN]) + (", ..." if count > SHOWN else "")


def validate_and_repair(
    manifests: Manifests,
    split: str,
    features: FeaturesConfig,
    normalize: Callable[[str], str],
) -> tuple[Manifests, ValidationReport]:
    """Check manifests without reading samples, normalise the text, drop what cannot be used.

    Args:
        manifests: recordings and supervisions as a corpus gives them.
        split: name of the split, for messages.
        features: sample rate and the limits of duration.
        normalize: the text rule of the configuration.

    Returns:
        Manifests of what is usable, and the report of what was dropped or repaired.

    Raises:
        DataError: duplicate ids, an empty split, or more than half of it unusable.
    """
    recordings = recording_rows(manifests.recordings)
    supervisions = supervision_rows(manifests.supervisions)
    _refuse_duplicates(recordings, f"split '{split}': recording")
    _refuse_duplicates(supervisions, f"split '{split}': utterance")
    report = ValidationReport(split, text=TextChanges(TextRule.of(normalize)))
    kept, used = supervision_rows(), names()
    find = functools.lru_cache(maxsize=16)(recordings.get)
    for supervision in supervisions:
        report.total += 1
        recording = find(supervision.recording_id)
        checked = _check(supervision, recording, manifests.problems, features, report)
        if checked is not None:
            kept.append(checked)
            used.append(checked.recording_id)
    report.refuse_too_many()
    return Manifests(RecordingSet(recordings.selected(used)), SupervisionSet(kept)), report


def _refuse_duplicates(rows: Rows[Any], what: str) -> None:
    repeated = rows.repeated()
    if repeated:
        raise DataError(
            f"{what} ids must be unique: {len(repeated)} occur more than once "
            f"({_first(repeated, len(repeated))}); rename or remove the repeats"
        )


def _check(
    supervision: SupervisionSegment,
    recording: Recording | None,
    problems: Any,
    features: FeaturesConfig,
    report: ValidationReport,
) -> SupervisionSegment | None:
    """Return the supervision as it will be used, or None after listing why it is not."""
    problem = problems.get(supervision.id) or problems.get(supervision.recording_id)
    if problem or recording is None:
        detail = problem or f"recording '{supervision.recording_id}' is not in the manifest"
        report.drop(supervision.id, _kind(detail), detail)
        return None
    if recording.num_samples <= 0:
        report.drop(supervision.id, "empty audio")
        return None
    supervision = _fit_to_recording(supervision, recording, report)
    if supervision.id in report.dropped:
        return None
    text = supervision.text or ""
    text = report.text.apply(supervision.id, text) if report.text else text
    _check_limits(supervision, text, features, report)
    if supervision.id in report.dropped:
        return None
    if recording.sampling_rate != features.sample_rate:
        kind = f"resampled from {recording.sampling_rate} to {features.sample_rate} Hz"
        report.repair(supervision.id, kind)
    if isinstance(supervision.channel, list) and len(supervision.channel) > 1:
        report.repair(supervision.id, f"{len(supervision.channel)} channels averaged to one")
    return fastcopy(supervision, text=text)


def _kind(detail: str) -> str:
    if detail.startswith("command "):  # whatever its program said
        return "command without audio"
    for kind in ("no such file", "empty file", "no samples", "cut short", "not readable"):
        if kind in detail:
            return {"no such file": "missing audio", "no samples": "empty audio"}.get(kind, kind)
    return "missing audio"


def _fit_to_recording(
    supervision: SupervisionSegment, recording: Recording, report: ValidationReport
) -> SupervisionSegment:
    """Use the recording's channels and end where the supervision names none or passes the end."""
    start, end, length = supervision.start, supervision.end, recording.duration
    channels = supervision.channel if isinstance(supervision.channel, list) else None
    missing = sorted(set(channels or [supervision.channel]) - set(recording.channel_ids))
    if missing:
        detail = f"channel {missing[0]} of {recording.num_channels} in '{recording.id}'"
        report.drop(supervision.id, "no such channel", detail)
    if not (math.isfinite(start) and math.isfinite(end)) or start < 0 or end <= start:
        detail = f"segment from {start} s to {end} s of '{recording.id}'"
        report.drop(supervision.id, "segment without length", detail)
    elif end > length + OVERRUN_SECONDS or start >= length:
        detail = f"segment ends at {end:.3f} s, '{recording.id}' at {length:.3f} s"
        report.drop(supervision.id, "segment past the end", detail)
    elif end > length:
        # less than a sample is rounding, no repair to be listed
        if end > length + 1.0 / recording.sampling_rate:
            report.repair(supervision.id, "segment shortened to the end of its audio")
        return fastcopy(supervision, duration=length - start)
    return supervision


def _check_limits(
    supervision: SupervisionSegment, text: str, features: FeaturesConfig, report: ValidationReport
) -> None:
    seconds = supervision.duration
    if not text.strip():
        report.drop(supervision.id, "empty text", f"no text left of {supervision.text!r}")
    elif seconds < features.min_duration:
        detail = f"{seconds:.3f} s, features.min_duration is {features.min_duration} s"
        report.drop(supervision.id, "too short", detail)
    elif seconds > features.max_duration:
        detail = f"{seconds:.3f} s, features.max_duration is {features.max_duration} s"
        report.drop(supervision.id, "too long", detail)
