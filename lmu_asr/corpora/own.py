"""The user's own data: any format that :mod:`lmu_asr.data.importers` reads, split if need be."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.splits import group
from lmu_asr.corpora.text import normalize_english
from lmu_asr.data.importers import import_data, split_paths, untranscribed
from lmu_asr.data.manifests import say_untranscribed
from lmu_asr.errors import DataError

LEAST_SPEAKERS = 10  # from here on, whole speakers go to one split


class Own:
    """Data named by ``corpus.source``: Kaldi, JSON lines, CSV, TSV, Lhotse, LibriSpeech layout."""

    name = "own"
    language = ""
    license_note = "own: the user's data, read where they lie"

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Check that the data are there: nothing is fetched.

        Raises:
            DataError: ``corpus.source`` is empty.
        """
        if not config.source:
            raise DataError("corpus.source is empty: name your data with --data PATH")

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Import the splits found by name, or split what is one (see :class:`Corpus`)."""
        named = split_paths(source, [config.train, config.dev, *config.test])
        if config.train in named:
            return _named_splits(config, named)
        if named:
            raise DataError(
                f"{source}: has {', '.join(sorted(named))} but no '{config.train}' (corpus.train)"
            )
        manifests = import_data(source)
        say_untranscribed(untranscribed([manifests]), source)
        return split_manifests(manifests, config)

    def normalize(self, text: str) -> str:
        """Lower case, apostrophes kept, other punctuation dropped, letters of any script kept."""
        return normalize_english(text)


def _named_splits(config: CorpusConfig, named: dict[str, Path]) -> dict[str, Manifests]:
    """Import splits that have their own files; dev and test that have none are cut from train."""
    splits = {name: import_data(path) for name, path in named.items()}
    for name, path in named.items():
        logging.info("split '%s' is %s: %d utterances", name, path, len(splits[name].supervisions))
    say_untranscribed(untranscribed(splits.values()), named[config.train].parent)
    wanted = [config.dev, *config.test]
    missing = [name for name in dict.fromkeys(wanted) if name not in splits]
    if missing:
        cut = split_manifests(splits.pop(config.train), config, missing)
        splits.update(cut)
    return splits


def split_manifests(
    manifests: Manifests, config: CorpusConfig, wanted: Sequence[str] | None = None
) -> dict[str, Manifests]:
    """Split one set by a hash of the utterance ids, or of the speakers where there are ten.

    An id's place does not change when others are added. Each split has one utterance at least.

    Args:
        manifests: the whole.
        config: names and fractions of the splits.
        wanted: the splits to cut off from training; all of them by default.

    Raises:
        DataError: fewer utterances than splits.
    """
    names = [config.dev, *config.test] if wanted is None else list(wanted)
    names = list(dict.fromkeys(names))
    speakers = {s.speaker for s in manifests.supervisions if s.speaker}
    by_speaker = len(speakers) >= LEAST_SPEAKERS and all(s.speaker for s in manifests.supervisions)
    keys = {s.id: str(s.speaker) if by_speaker else s.id for s in manifests.supervisions}
    units = sorted(set(keys.values()), key=_position)
    if len(units) <= len(names):
        raise DataError(
            f"{len(units)} utterances cannot be split into {config.train}, {', '.join(names)}; "
            "add data, or give the splits as directories or files of these names"
        )
    fractions = [_fraction(name, config, names) for name in names]
    places = _places(units, names, fractions, config.train)
    unit = "speakers" if by_speaker else "utterances"
    counts = {name: list(places.values()).count(name) for name in [config.train, *names]}
    logging.info(
        "split by a hash of %s: %s %s",
        "the speaker" if by_speaker else "the utterance id",
        ", ".join(f"{name} {count}" for name, count in counts.items()),
        unit,
    )
    groups = group(manifests, lambda s: places[keys[s.id]])
    return {name: groups[name] for name in [config.train, *names]}


def _fraction(name: str, config: CorpusConfig, names: Sequence[str]) -> float:
    if name == config.dev:
        return config.dev_fraction
    return config.test_fraction / max(1, sum(n != config.dev for n in names))


def _places(
    units: Sequence[str], names: Sequence[str], fractions: Sequence[float], train: str
) -> dict[str, str]:
    """Give each unit, sorted by its hash, a split: by its position, and one at least to each."""
    places = {}
    for unit in units:
        position, place = _position(unit), train
        for name, fraction in zip(names, fractions, strict=True):
            if 0.0 <= position < fraction:
                place = name
                break
            position -= fraction
        places[unit] = place
    for name in [train, *names]:  # fractions may leave one empty, small data often do
        if name not in places.values():
            counts = Counter(places.values())
            places[next(u for u in units if places[u] == max(counts, key=counts.__getitem__))] = (
                name
            )
    return places


def _position(unit: str) -> float:
    """A number in [0, 1) from a string, the same everywhere."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:6], "big") / 2.0**48


CORPUS = Own()
