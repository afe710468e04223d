"""Names by which lists and their splits go: suffixes of lists, and the words for train, dev and test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lmu_asr.errors import DataError
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
    return is_remote(source) and source.endswith((*TABLES, PARQUET))


def find_splits(words: Iterable[str], wanted: Sequence[str], where: object) -> dict[str, str]:
    """Return the word by which each wanted split goes, of those that are there.

    A split's own name comes first, then the same in other letters, then its synonyms, if the name
    is one of them: ``training``; ``valid``, ``validation``, ``val``, ``development``; ``testing``.
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
    for name in dict.fromkeys(wanted):
        if name in words:
            found[name] = name
            continue
        others = set(words) - set(wanted)
        meant = sorted(word for word in others if word.strip().casefold() in _synonyms(name))
        if len(meant) > 1:
            raise DataError(
                f"{where}: '{meant[0]}' and '{meant[1]}' both mean the split '{name}': "
                "rename one of them"
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


def _synonyms(name: str) -> Collection[str]:
    folded = name.casefold()
    return next((group for group in WORDS if folded in group), (folded,))
