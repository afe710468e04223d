"""The user's own ARPA file: what of it is taken, and how it is fitted to the training text."""

from __future__ import annotations

import gzip
import logging
import re
import shutil
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from lmu_asr.errors import LangError
from lmu_asr.files import atomic_open
from lmu_asr.lang.arpa import read_arpa_lines, write_arpa
from lmu_asr.lang.spelling import Spelling, has_case
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
            # by its first bytes: a compressed file need not be called .gz
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
                "%s: %d symbols are not words and are left out: %s",
                self.path,
                len(no_words),
                _some(no_words),
            )
        return words


def read_user_arpa(path: str | Path, words: Set[str]) -> UserModel:
    """Read the ARPA file of ``lm.arpa`` and fit its words to those of the training text.

    Accents are spelled as the training text does (:class:`Spelling`). Then case counts, by the words
    that have one: where the training text and the model share none of them as written, but some in
    lower (or in upper) case, all words of the model are taken in that case.

    Args:
        path: ARPA file, perhaps compressed by gzip.
        words: words of the training text.

    Raises:
        LangError: a broken file, a model without ``</s>``, or without any word of the text; two words
            that become one (their lines are named).
    """
    path = Path(path)
    model, lines = read_arpa_lines(path)
    if EOS not in model.ids:
        raise LangError(
            f"{path}: the model has no {EOS} among its 1-grams, so that no sentence can end: "
            "make it again from text with sentence ends"
        )
    if BOS not in model.ids:
        log.warning("%s: the model has no %s: sentences begin without a history", path, BOS)
    spelled = _changed(path, model, lines, Spelling(words), "in composed form (Unicode NFC)")
    found = _in_the_case_of_text(path, spelled, lines, words)
    _say_share(user := UserModel(path, found, found is model), words)
    return user


def _in_the_case_of_text(
    path: Path, model: NgramModel, lines: Sequence[int], words: Set[str]
) -> NgramModel:
    """Return the model with its words in the case that the training text has them in."""
    cased = {word for word in words if has_case(word)}
    if not cased.isdisjoint(model.ids):
        return model
    for name, change in (("lower", str.lower), ("upper", str.upper)):
        if not any(change(s) in cased for s in model.symbols if is_word(s)):
            continue
        changed = _changed(path, model, lines, change, f"in {name} case, as in the training text")
        log.warning(
            "%s: the model has no word of the training text as it is written, but some in %s case: "
            "all words of the model are changed to that case",
            path,
            name,
        )
        return changed
    if words.isdisjoint(model.ids):
        raise LangError(
            f"{path}: no word of the training text is in the model: the text has "
            f"{_some(sorted(words))}, the model {_some([s for s in model.symbols if is_word(s)])}"
        )
    return model


def _changed(
    path: Path, model: NgramModel, lines: Sequence[int], change: Callable[[str], str], how: str
) -> NgramModel:
    """Return the model with each word changed, itself where none is.

    Raises:
        LangError: two words become one.
    """
    symbols = [change(s) if is_word(s) else s for s in model.symbols]
    if symbols == model.symbols:
        return model
    first: dict[str, int] = {}
    for index, symbol in enumerate(symbols):
        other = first.setdefault(symbol, index)
        if other != index:
            one, two = (f"{model.symbols[i]!a} (line {lines[i]})" for i in (other, index))
            raise LangError(
                f"{path}:{lines[index]}: {one} and {two} become one word, {symbol!r}, {how}: "
                "make the model again from text in which they are one"
            )
    return NgramModel(symbols, model.levels)


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
