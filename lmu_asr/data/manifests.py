"""Recordings and supervisions of one split, as corpora and importers hand them on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lhotse import RecordingSet, SupervisionSet


@dataclass(frozen=True)
class Manifests:
    """Recordings and supervisions of one split, in a fixed order.

    Attributes:
        recordings: audio that could be opened.
        supervisions: utterances, also those whose audio could not.
        problems: reason by recording id, or by supervision id, of what could not be read.
    """

    recordings: RecordingSet
    supervisions: SupervisionSet
    problems: Mapping[str, str] = field(default_factory=dict)
