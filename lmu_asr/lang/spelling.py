"""One word, one spelling: an accented letter is one character (NFC) or several (NFD) in Unicode."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def compose(text: str) -> str:
    """Return ``text`` with accents composed (NFC), which is how the rules of ``corpus.text`` write."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class Spelling:
    """How the training text spells words; call it with a word of the user's other files.

    A word of the training text is spelled as it is there. Any other is composed (NFC), unless
    the training text is not (``corpus.text=as_is`` leaves it as it was written).

    Args:
        words: words of the training text.
    """

    def __init__(self, words: Iterable[str]) -> None:
        accented = sorted(word for word in words if not word.isascii())
        self._own = frozenset(accented)
        self._spelled = {compose(word): word for word in accented}
        # one word that is not composed tells that the text was taken as it is
        self._composes = all(form == word for form, word in self._spelled.items())

    def __call__(self, word: str) -> str:
        """Return ``word`` as the training text spells it."""
        if word.isascii() or word in self._own:
            return word
        form = compose(word)
        return self._spelled.get(form, form if self._composes else word)

    def sentence(self, text: str) -> str:
        """Return words between single blanks, each spelled as the training text does."""
        return text if text.isascii() else " ".join(map(self, text.split(" ")))


def has_case(word: str) -> bool:
    """Whether upper and lower case of a word differ: digits and most scripts have none."""
    return word.lower() != word.upper()
