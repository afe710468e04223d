"""Splits of a corpus: their parts, and splits cut from a training set that has no other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.data.manifests import recording_rows, supervision_rows
from lmu_asr.data.rows import Rows, names

OPENSLR = (
    "https://www.openslr.org/resources",
    "https://openslr.trmal.net/resources",
    "https://openslr.elda.org/resources",
    "https://openslr.magicdatatech.com/resources",
)


def split_parts(config: CorpusConfig, aliases: Mapping[str, str] | None = None) -> list[str]:
    """Return the parts of all splits: ``a+b`` is two, and an alias stands for its parts."""
    names = (name for split in config.splits for name in _parts(split, aliases or {}))
    return list(dict.fromkeys(names))


def _parts(split: str, aliases: Mapping[str, str]) -> list[str]:
    return aliases.get(split, split).split("+")


def join_splits(
    config: CorpusConfig,
    read: Callable[[str], Manifests],
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Manifests]:
    """Read each split, part by part, and join the parts in order."""
    return {
        split: join([read(part) for part in _parts(split, aliases or {})])
        for split in config.splits
    }


def join(parts: Sequence[Manifests]) -> Manifests:
    """Return the union of several sets, in order."""
    return Manifests(
        RecordingSet(recording_rows(r for part in parts for r in part.recordings)),
        SupervisionSet(supervision_rows(s for part in parts for s in part.supervisions)),
        {i: reason for part in parts for i, reason in part.problems.items()},
    )


def group(
    manifests: Manifests, split_of: Callable[[SupervisionSegment], str]
) -> dict[str, Manifests]:
    """Divide a set into splits: ``split_of`` names the split of each utterance."""
    groups: defaultdict[str, Rows[SupervisionSegment]] = defaultdict(supervision_rows)
    for supervision in manifests.supervisions:
        groups[split_of(supervision)].append(supervision)
    return {name: select(manifests, segments) for name, segments in groups.items()}


def select(manifests: Manifests, supervisions: Iterable[SupervisionSegment]) -> Manifests:
    """Return some of the utterances, with their recordings; the files that the list names are all."""
    used = names(s.recording_id for s in supervisions)
    return Manifests(
        RecordingSet(recording_rows(manifests.recordings).selected(used)),
        SupervisionSet(supervision_rows(supervisions)),
        {i: reason for i, reason in manifests.problems.items() if i in used},
        manifests.files,
    )
