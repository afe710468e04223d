"""The user's own data: any format that :mod:`lmu_asr.data.importing.importers` reads, split if need be."""

from __future__ import annotations

import bisect
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lhotse import SupervisionSegment

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.splits import group
from lmu_asr.corpora.text import PLAIN
from lmu_asr.data.importing.importers import import_data, import_parts, split_paths, untranscribed
from lmu_asr.data.importing.list_names import find_splits, is_trained_on
from lmu_asr.data.importing.pipes import pipes_of
from lmu_asr.data.manifests import say_untranscribed
from lmu_asr.data.rows import Rows
from lmu_asr.errors import DataError

LEAST_SPEAKERS = 10  # from here on, whole speakers go to one split


class Own:
    """Data named by ``corpus.source``: see :mod:`lmu_asr.data.importing.importers` for the formats."""

    name = "own"
    language = ""
    normalize = PLAIN
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
        manifests = import_data(source, _cache(config), pipes_of(config))
        say_untranscribed(untranscribed([manifests]), source)
        if manifests.splits:
            return _listed_splits(manifests, config, source)
        return split_manifests(manifests, config)


def _cache(config: CorpusConfig) -> Path | None:
    return Path(config.s3_cache) if config.s3_cache else None


def _named_splits(config: CorpusConfig, named: dict[str, tuple[Path, ...]]) -> dict[str, Manifests]:
    """Import splits that have their own files."""
    splits: dict[str, Manifests] = {}
    for name, paths in named.items():
        splits[name] = part = import_parts(paths, _cache(config), pipes_of(config))
        _refuse_other_splits(part, name, paths[0])
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        logging.info(
            "split '%s' is %s%s: %d utterances", name, paths[0], more, len(part.supervisions)
        )
    say_untranscribed(untranscribed(splits.values()), named[config.train][0].parent)
    return _with_all(splits, config)


def _refuse_other_splits(part: Manifests, name: str, path: Path) -> None:
    """Refuse a list that is one split by its name and has rows of another."""
    meant = find_splits(part.splits, [name], path)
    for word, where in part.splits.items():
        if word != meant.get(name):
            raise DataError(f"{where}: split is '{word}', but by its name the list is '{name}'")


def _listed_splits(
    manifests: Manifests, config: CorpusConfig, source: Path
) -> dict[str, Manifests]:
    """Divide a list by its own column ``split``."""
    words = find_splits(manifests.splits, config.splits, source)
    names = {word: name for name, word in words.items()}
    for word, where in manifests.splits.items():
        if word not in names:
            hint = f", for example --set corpus.test='[{','.join([*config.test, word])}]'"
            raise DataError(
                f"{where}: split '{word}' is none of {', '.join(config.splits)}; rename it, or say what it is"
                + (" with corpus.train, corpus.dev or corpus.test" if is_trained_on(word) else hint)
            )
    if config.train not in words:
        raise DataError(
            f"{source}: the column split has {', '.join(manifests.splits)} but no "
            f"'{config.train}' (corpus.train)"
        )

    def split_of(supervision: SupervisionSegment) -> str:
        found = manifests.split_of.get(supervision.id) if manifests.split_of else None
        return names[found[1]] if found else config.train

    splits = group(manifests, split_of)
    counts = ", ".join(f"{n} ('{words[n]}') {len(splits[n].supervisions)}" for n in words)
    logging.info("split by the list's own column: %s utterances", counts)
    return _with_all(splits, config)


def _with_all(splits: dict[str, Manifests], config: CorpusConfig) -> dict[str, Manifests]:
    """Cut dev and test that are not there from train."""
    missing = [n for n in dict.fromkeys([config.dev, *config.test]) if n not in splits]
    if missing:
        splits.update(split_manifests(splits.pop(config.train), config, missing))
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
    by_speaker = _has_speakers(manifests)
    units = Rows(str, (_unit(s, by_speaker) for s in manifests.supervisions))
    fractions = [_fraction(name, config, names) for name in names]
    places = Places(units, names, fractions, config.train)
    if sum(places.counts.values()) <= len(names):
        raise DataError(
            f"{sum(places.counts.values())} utterances cannot be split into {config.train}, "
            f"{', '.join(names)}; "
            "add data, or give the splits as directories or files of these names"
        )
    logging.info(
        "split by a hash of %s: %s %s",
        "the speaker" if by_speaker else "the utterance id",
        ", ".join(f"{name} {places.counts[name]}" for name in [config.train, *names]),
        "speakers" if by_speaker else "utterances",
    )
    groups = group(manifests, lambda s: places.of(_unit(s, by_speaker)))
    return {name: groups[name] for name in [config.train, *names]}


def _has_speakers(manifests: Manifests) -> bool:
    """Whether every utterance has a speaker, and there are enough of them."""
    first: set[str] = set()
    for supervision in manifests.supervisions:
        if not supervision.speaker:
            return False
        if len(first) < LEAST_SPEAKERS:
            first.add(supervision.speaker)
    return len(first) >= LEAST_SPEAKERS


def _unit(supervision: SupervisionSegment, by_speaker: bool) -> str:
    """What stays in one split: a speaker, or an utterance."""
    return str(supervision.speaker) if by_speaker else supervision.id


def _fraction(name: str, config: CorpusConfig, names: Sequence[str]) -> float:
    if name == config.dev:
        return config.dev_fraction
    return config.test_fraction / max(1, sum(n != config.dev for n in names))


class Places:
    """The split of each unit: by the position of its hash, and one unit at least to each split.

    Args:
        units: speakers or utterances, repeated or not.
        names: the splits besides training.
        fractions: the share of each of them.
        train: the split that has the rest.

    Attributes:
        counts: units of each split.
    """

    def __init__(
        self, units: Rows[str], names: Sequence[str], fractions: Sequence[float], train: str
    ) -> None:
        self._shares, self._train = list(zip(names, fractions, strict=True)), train
        self._moved: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        lowest: dict[str, list[tuple[float, str]]] = {}  # the first units of each, by position
        for unit, _ in units.firsts():
            place = self.of(unit)
            self.counts[place] += 1
            first = lowest.setdefault(place, [])
            bisect.insort(first, (_position(unit), unit))
            del first[len(names) + 1 :]
        for name in [train, *names]:  # fractions may leave one empty, small data often do
            if lowest and not self.counts[name]:
                full = sorted((s for s in lowest if self.counts[s]), key=lambda s: lowest[s][0])
                giver = max(full, key=self.counts.__getitem__)
                moved = lowest[giver].pop(0)
                self._moved[moved[1]], lowest[name] = name, [moved]
                self.counts[name] += 1
                self.counts[giver] -= 1

    def of(self, unit: str) -> str:
        """Return the split of a unit."""
        if unit in self._moved:
            return self._moved[unit]
        position = _position(unit)
        for name, fraction in self._shares:
            if 0.0 <= position < fraction:
                return name
            position -= fraction
        return self._train


def _position(unit: str) -> float:
    """A number in [0, 1) from a string, the same everywhere."""
    return (
        # 48 bits, which a float64 holds exactly: the quotient stays below 1
        int.from_bytes(hashlib.sha256(unit.encode("utf-8", "surrogatepass")).digest()[:6], "big")
        / 2.0**48
    )


CORPUS = Own()
