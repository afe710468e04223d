"""The user's own ARPA file: what of it is taken, and how it is fitted to the training text."""

from __future__ import annotations

import gzip
import logging
import re
import shutil
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from lmu_asr.errors import LangError
from lmu_asr.files import atomic_open
from lmu_asr.lang.arpa import read_arpa, write_arpa
from lmu_asr.lang.trie import BOS, EOS, UNK, NgramModel

log = logging.getLogger(__name__)

FEW = 0.5  # of the words of the training text: below, a warning
_NAMED = 5
_NO_WORD = re.compile(r"<.*>|\[.*\]|\{.*\}|\(.*\)|#\d+|!\S+", re.DOTALL)


def is_word(symbol: str) -> bool:
    """Whether a symbol of a language model is a word.

    Symbols in brackets (``<UNK>``, ``[noise]``), those of graphs (``#0``), Kaldi's ``!SIL`` and
    what holds a blank are none.
    """
    return symbol.split() == [symbol] and not _NO_WORD.fullmatch(symbol)


@dataclass(frozen=True)
class UserModel:
    """A language model that the user gave.

    Attributes:
        path: its file.
        model: n-grams, in the case of the training text.
        as_written: whether ``model`` is what the file holds, letter by letter.
    """

    path: Path
    model: NgramModel
    as_written: bool

    def save(self, path: Path) -> None:
        """Write the model as a plain ARPA file: a copy where nothing was changed."""
        if not self.as_written:
            write_arpa(self.model, path)
            return
        with open(self.path, "rb") as start:
            opener = gzip.open if start.read(2) == b"\x1f\x8b" else open
        with opener(self.path, "rb") as source, atomic_open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def new_words(self, known: Set[str]) -> list[str]:
        """Return the model's words beside ``known``; says how many symbols are no words."""
        new = [s for s in self.model.symbols if s not in known and s not in (BOS, EOS, UNK)]
        words = [symbol for symbol in new if is_word(symbol)]
        if len(words) < len(new):
            no_words = [symbol for symbol in new if not is_word(symbol)]
            log.info(
                "%s: %d symbols are no words and are left out: %s",
                self.path,
                len(no_words),
                _some(no_words),
            )
        return words


def read_user_arpa(path: str | Path, words: Set[str]) -> UserModel:
    """Read the ARPA file of ``lm.arpa`` and compare its words with those of the training text.

    Where no word is shared as written, but some are in lower (or in upper) case, and no two words of
    the model become one by it, the model's words are taken in that case.

    Args:
        path: ARPA file, perhaps compressed by gzip.
        words: words of the training text.

    Raises:
        LangError: a broken file, a model without ``</s>``, or without any word of the text.
    """
    path = Path(path)
    model = read_arpa(path)
    if EOS not in model.ids:
        raise LangError(
            f"{path}: the model has no {EOS} among its 1-grams, so that no sentence can end: "
            "make it again from text with sentence ends"
        )
    if BOS not in model.ids:
        log.warning("%s: the model has no %s: sentences begin without a history", path, BOS)
    found = UserModel(path, model, True)
    if not words & model.ids.keys():
        found = UserModel(path, _in_other_case(path, model, words), False)
    _say_share(found, words)
    return found


def _in_other_case(path: Path, model: NgramModel, words: Set[str]) -> NgramModel:
    for name, change in (("lower", str.lower), ("upper", str.upper)):
        symbols = [change(s) if is_word(s) else s for s in model.symbols]
        if words.isdisjoint(symbols):
            continue
        if len(set(symbols)) < len(symbols):
            raise LangError(
                f"{path}: its words are the training text's only in {name} case, and there some "
                "become one word: make the model again from text in that case"
            )
        log.warning(
            "%s: no word of the training text is in the model as written; its words are taken in "
            "%s case, in which they are",
            path,
            name,
        )
        return NgramModel(symbols, model.levels)
    raise LangError(
        f"{path}: no word of the training text is in the model: the text has "
        f"{_some(sorted(words))}, the model {_some([s for s in model.symbols if is_word(s)])}"
    )


def _say_share(found: UserModel, words: Set[str]) -> None:
    missing = sorted(words - found.model.ids.keys())
    if not missing:
        return
    level = logging.WARNING if len(missing) > (1.0 - FEW) * len(words) else logging.INFO
    log.log(
        level,
        "%s: %d of the %d words of the training text are in the model (%.0f %%); not: %s",
        found.path,
        len(words) - len(missing),
        len(words),
        100.0 * (1.0 - len(missing) / len(words)),
        _some(missing),
    )


def _some(words: list[str]) -> str:
    return ", ".join(map(repr, words[:_NAMED])) + (" ..." if len(words) > _NAMED else "")
