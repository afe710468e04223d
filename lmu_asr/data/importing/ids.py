"""Names that are written into lines of fields: no blank or control character may break them."""

from __future__ import annotations

import unicodedata

from lmu_asr.errors import percent


def escaped(text: str, keep: str = "") -> str:
    """Replace what could break a line or a field by ``%`` and two hexadecimal digits a byte.

    These are blanks and control characters of every script, what is not UTF-8 in a file's name,
    and ``%`` itself, so that two names never become one.

    Args:
        text: a name; bytes of a file's name that are not UTF-8 as Python's ``surrogateescape``.
        keep: characters that stay.
    """
    if text.isascii() and text.isprintable() and not {" ", "%"} & set(text):
        return text
    return "".join(c if c in keep or not _breaks(c) else percent(c) for c in text)


def _breaks(character: str) -> bool:
    is_control = unicodedata.category(character) in ("Cc", "Cs", "Zs", "Zl", "Zp")
    return character == "%" or character.isspace() or is_control
