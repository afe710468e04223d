"""Text normalisation that several corpora share, and the rules that ``corpus.text`` names."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from html.entities import html5

from lmu_asr.data.importing.text_rule import Step, TextRule

_APOSTROPHES = re.compile(r"[’‘‛`´]")
_MODIFIER_APOSTROPHE = re.compile(
    r"(?<=[^\W\d_])ʼ(?=[^\W\d_])"
)  # Ukrainian м'ять; elsewhere a letter
# marks that Unicode's word segmentation (UAX 29, MidLetter) keeps within words: don't, col·lega,
# Hebrew geresh and gershayim, and the joiners that Persian and Indic spelling needs
_WITHIN = "'·\u2027\u05f3\u05f4\u200c\u200d"
# letters of scripts that have no apostrophe and put quotes against letters
_NO_APOSTROPHE = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_REPEATED = re.compile(rf"[{_WITHIN}]{{2,}}")
_AT_AN_EDGE = re.compile(
    rf"(?<![^\s{_NO_APOSTROPHE}])[{_WITHIN}]|[{_WITHIN}](?![^\s{_NO_APOSTROPHE}])"
)
_WIDE = re.compile("[\u3000\uff01-\uffee]+")
_SOUNDS = (
    "applause|breath|breathing|cough|coughs|coughing|cross-?talk|inaudible|indistinct|laugh|laughs|"
    "laughing|laughter|music|noise|pause|sigh|sighs|silence|unclear|unintelligible"
)
# a tag in < > that holds blanks has a letter on one side at the most: a<b and c>d is no tag
_IN_ANGLES = r"<(?=\S)[^<>]{1,60}(?<=\S)>"
_TAG = re.compile(
    rf"\[[^\[\]]{{1,60}}\]|\{{[^{{}}]{{1,60}}\}}|【[^【】]{{1,60}}】|〔[^〔〕]{{1,60}}〕|〖[^〖〗]{{1,60}}〗"
    rf"|<[^<>\s]{{1,60}}>|(?<!\w){_IN_ANGLES}|{_IN_ANGLES}(?!\w)|\((?:{_SOUNDS})\)"
    rf"|(?<!\w)\+\+[^\s+]{{1,60}}\+\+(?!\w)|(?<!\w)%(?:hesitation|{_SOUNDS})(?!\w)",
    re.IGNORECASE,
)
_DEEPEST_TAG = 10  # tags in tags
_MAY_HOLD_TAGS = re.compile(r"[\[{<(【〔〖%]|\+\+")  # few texts do: quicker to ask first
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")


def normalize_english(text: str) -> str:
    """Lower case, typographic apostrophes made plain, other punctuation dropped, single spaces."""
    text = _APOSTROPHES.sub("'", lower(unicodedata.normalize("NFC", text)))
    text = re.sub(r"[^\w' ]|_", _mark_or_blank, text)
    return " ".join(
        word for word in (w.strip("'") if w == "'" else w for w in text.split()) if word
    )


def _mark_or_blank(match: re.Match[str]) -> str:
    """Combining marks (vowel signs, accents) belong to the letter before them; \\w lacks them."""
    char = match[0]
    mark = unicodedata.category(char)[0] == "M" and not _selects_variant(char)
    return char if mark else " "


def lower(text: str) -> str:
    """Return ``text`` in lower case; the Turkish dotted capital becomes one letter, i."""
    return text.replace("\u0130", "i").lower()


class _Table(dict[int, str]):
    """What ``str.translate`` makes of each character; filled as characters are met."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self.rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self.rule(chr(code))
        return self[code]


def _letter_or_blank(char: str) -> str:
    category = unicodedata.category(char)
    if char in _WITHIN or (category[0] in "LMN" and not _selects_variant(char)):
        return char
    if (category == "Cf" and char != "\u200b") or category == "Cs" or _selects_variant(char):
        return ""  # soft hyphens and marks of direction stand within words
    return _printable(char) if category == "Cc" else " "


def _selects_variant(char: str) -> bool:
    """Variation selectors choose a glyph and are marks only by category."""
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def _printable(char: str) -> str:
    if unicodedata.category(char) in ("Cc", "Cs") or char == "\ufeff":
        return " " if char.isspace() else ""
    return char


_LETTERS, _PRINTABLE = _Table(_letter_or_blank), _Table(_printable)
_STRAY_MARK = re.compile(r"(?:(?<=\s)|^)[^\w\s]+")


def _blanks(text: str) -> str:
    return " ".join(text.split())


def _compose(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _narrow(text: str) -> str:
    return _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


def _drop_tags(text: str) -> str:
    if not _MAY_HOLD_TAGS.search(text):
        return text
    for _ in range(_DEEPEST_TAG):  # from the inner to the outer: [a [b] c]
        text, count = _TAG.subn(" ", text)
        if not count:
            break
    return text


def _tags(text: str) -> list[str]:
    """The tags that :func:`_drop_tags` takes out; an outer one without those in it."""
    found: list[str] = []
    for _ in range(_DEEPEST_TAG):
        tags = _TAG.findall(text)
        if not tags:
            break
        found += map(_blanks, tags)
        text = _TAG.sub(" ", text)
    return found


def _characters_of_entities(text: str) -> str:
    """``&lt;unk&gt;`` is ``<unk>``: the text was taken from a web page."""
    return _ENTITY.sub(_character_of_entity, text) if "&" in text else text


def _character_of_entity(match: re.Match[str]) -> str:
    if match[0][1] == "#":
        return html.unescape(match[0])
    return html5.get(match[0][1:], match[0])  # unescape would take &not of &nothing;


def _apostrophes(text: str) -> str:
    return _MODIFIER_APOSTROPHE.sub("'", _APOSTROPHES.sub("'", text))


def _words(text: str) -> str:
    """Keep letters, marks, numbers, and what stands within words; nothing else."""
    text = _REPEATED.sub(" ", text.translate(_LETTERS))
    return _compose(_blanks(_AT_AN_EDGE.sub("", _STRAY_MARK.sub("", text))))


def _characters_lost(text: str) -> list[str]:
    return [char for char in (Counter(text) - Counter(_words(text))).elements() if char != " "]


_LOWER = Step("lower case", lower)
_UPPER = Step("upper case", str.upper)
_BLANKS = Step("blanks made single", _blanks)


def _plain(name: str, case: Step) -> TextRule:
    return TextRule(
        name,
        (
            Step("HTML entities made characters", _characters_of_entities),
            _BLANKS,
            Step("accents composed (NFC)", _compose),
            Step("full-width and half-width forms made plain", _narrow),
            Step("tags in brackets dropped", _drop_tags, _tags),
            Step("typographic apostrophes made plain", _apostrophes),
            case,
            Step("punctuation and symbols dropped", _words, _characters_lost),
        ),
    )


PLAIN = _plain("plain", _LOWER)
RULES = {
    "plain": PLAIN,
    "upper": _plain("upper", _UPPER),
    "as_is": TextRule(
        "as_is",
        (Step("control characters dropped", lambda t: t.translate(_PRINTABLE)), _BLANKS),
    ),
}
