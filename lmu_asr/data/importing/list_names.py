"""Names by which lists and their splits go: suffixes of lists, and the words for train, dev and test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lmu_asr.config import CorpusConfig
from lmu_asr.errors import ConfigError, DataError
from lmu_asr.remote import is_remote

TABLES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv")
PARQUET = ".parquet"
# the first of each group is ours; "eval" is in none, since it means dev here and test there
WORDS = (
    ("train", "training"),
    ("dev", "valid", "validation", "val", "development", "devel"),
    ("test", "testing"),
)
EVAL = ("eval", "evaluation")


def is_remote_list(source: str) -> bool:
    """Whether ``source`` is the address of one list, by its suffix, not of a folder."""
    return is_remote(source) and source.lower().endswith((*TABLES, PARQUET))


def check_split_names(corpus: CorpusConfig) -> None:
    """Refuse dev and test splits that are the training set, test splits that are dev, and repeats.

    Raises:
        ConfigError: with the option; the training set counts in any case, as a synonym, and as a part
            of ``a+b``.
    """
    train = corpus.train.split("+")
    for option, name in (("dev", corpus.dev), *(("test", name) for name in corpus.test)):
        if any(spelling_of(part, train) for part in name.split("+")):
            raise ConfigError(
                f"corpus.{option} names {name!r}, which is the training set (corpus.train is "
                f"{corpus.train!r}): a score on what was trained on is no result; name another split"
            )
    if corpus.dev in corpus.test:
        raise ConfigError(
            f"corpus.test names the dev split {corpus.dev!r}: scales are tuned on dev, so its error "
            "rate is no test result; every decode scores dev anyway: take it out of corpus.test"
        )
    repeated = [s for n, s in enumerate(corpus.test) if s in corpus.test[:n]]
    if repeated:
        raise ConfigError(f"corpus.test names {repeated[0]!r} twice")


def find_splits(words: Iterable[str], wanted: Sequence[str], where: object) -> dict[str, str]:
    """Return the word by which each wanted split goes, of those that are there.

    A split goes by its own name, by the same in other letters, or by a synonym, if the name is one
    of them: ``training``; ``valid``, ``validation``, ``val``, ``development``; ``testing``. Two of these
    beside one another are an error: whether they are one split, only the user knows.
    ``eval`` is ``dev`` where nothing else is, else ``test`` where nothing else is.

    Args:
        words: names that data have: of files, of directories, in a column.
        wanted: names of the configuration.
        where: what has the words, for the message.

    Raises:
        DataError: two words mean the same split.
    """
    words = list(dict.fromkeys(words))
    found: dict[str, str] = {}
    others = [word for word in words if word not in wanted]
    for name in dict.fromkeys(wanted):
        meant = [word for word in [name] if word in words]
        meant += sorted(word for word in others if spelling_of(word, [name]))
        if len(meant) > 1:
            raise DataError(
                f"{where}: '{meant[0]}' and '{meant[1]}' both mean the split '{name}': "
                "rename one of them, or join them"
            )
        if meant:
            found[name] = meant[0]
    left = (word for word in words if word.strip().casefold() in EVAL and word not in wanted)
    for word in [w for w in left if w not in found.values()][:1]:
        for role in WORDS[1:]:
            names = [n for n in wanted if n.casefold() in role]
            if names and names[0] not in found:
                found[names[0]] = word
                break
    return found


def spelling_of(word: str, names: Iterable[str]) -> str:
    """Return the first of ``names`` that ``word`` means in other letters or as a synonym, or nothing."""
    folded = word.strip().casefold()
    return next((name for name in names if folded in _synonyms(name)), "")


def is_trained_on(word: str) -> bool:
    """Whether a word is one for training or dev sets, so that nothing should be tested on it."""
    return bool(spelling_of(word, (WORDS[0][0], WORDS[1][0])))


def _synonyms(name: str) -> Collection[str]:
    folded = name.strip().casefold()
    return next((group for group in WORDS if folded in group), (folded,))
