"""Files of pronunciations: CMUdict's format, and Kaldi's with or without probabilities."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmu_asr.errors import LangError
from lmu_asr.lang.lexicon import Pronunciation
from lmu_asr.lang.spelling import compose
from lmu_asr.text_lines import language_lines

log = logging.getLogger(__name__)

_STRESSED = re.compile(r"(AA|AE|AH|AO|AW|AX|AY|EH|ER|EY|IH|IX|IY|OW|OY|UH|UW|UX)[012]")
_VARIANT = re.compile(r"(.+)\((\d+)\)$")
_COMMENT = re.compile(r"(?:^|\s)#(?:\s|$)")
_RESERVED = re.compile(r"<blk>|<eps>|#\d+")  # in lexicon transducers
_RESERVED_WORD = re.compile(rf"{_RESERVED.pattern}|<s>|</s>")
_NUMBER = re.compile(r"([0-9]{1,20}\.?|[0-9]{0,20}\.[0-9]{1,20})([eE][-+]?[0-9]{1,3})?")
_DECIMAL = re.compile(r"[0-9]{0,20}\.[0-9]{1,20}([eE][-+]?[0-9]{1,3})?")
_FAULTS_NAMED = 10


@dataclass(frozen=True)
class _Line:
    number: int
    word: str
    fields: list[str]  # what follows the word


@dataclass(frozen=True)
class _Format:
    """A format: its name, and how many numbers stand between word and phones."""

    name: str
    numbers: int


_PLAIN = _Format("lexicon.txt", 0)
_LEXICONP = _Format("lexiconp.txt", 1)  # probability
_SILPROB = _Format("lexiconp_silprob.txt", 4)  # probability, and three of silence around the word


def remove_stress(phone: str) -> str:
    """Return an ARPAbet vowel without its stress digit; any other phone as it is."""
    return phone[:-1] if _STRESSED.fullmatch(phone) else phone


def read_pronunciations(path: str | Path) -> dict[str, list[Pronunciation]]:
    """Read a lexicon in CMUdict's or Kaldi's format: ``word phone phone ...``, one entry a line.

    Lines starting with ``;;;`` or ``# `` and trailing `` # ...`` are comments, ``word(2)`` is another
    pronunciation of ``word``, ARPAbet stress digits are removed, repeated entries are kept once.
    Accents are composed (NFC): entries of one word in two Unicode forms are its pronunciations.

    Kaldi's ``lexiconp.txt`` and ``lexiconp_silprob.txt`` are known by these names, or by a decimal
    number in (0, 1] after every word, or whole ones beside a decimal. Of their numbers only the order is used: the most probable
    pronunciation of a word comes first.

    Raises:
        LangError: no such file, no text, or lines that are no entry (the first of them named).
    """
    lines = list(_lines(path))
    if not lines:
        raise LangError(f"{path}: no pronunciation in this file; want 'word phone phone ...' lines")
    form = _format(Path(path).name, lines)
    faults = [f"{path}:{line.number}: {fault}" for line in lines if (fault := _fault(line, form))]
    if faults:
        more = len(faults) - _FAULTS_NAMED
        raise LangError(
            "\n".join(faults[:_FAULTS_NAMED]) + (f"\nand {more} lines more" if more > 0 else "")
        )
    if form.numbers:
        log.info(
            "%s: read as Kaldi's %s: the most probable pronunciation of a word comes first; "
            "its probabilities are not used otherwise",
            path,
            form.name,
        )
    found: dict[str, list[_Line]] = {}
    for line in lines:
        found.setdefault(line.word, []).append(line)
    return {word: _ranked(entries, form) for word, entries in found.items()}


def _ranked(lines: list[_Line], form: _Format) -> list[Pronunciation]:
    """Return the pronunciations of one word, each once; ties stay in the file's order."""
    if form.numbers:
        lines = sorted(lines, key=lambda line: -float(line.fields[0]))
    prons = (tuple(map(remove_stress, line.fields[form.numbers :])) for line in lines)
    return list(dict.fromkeys(prons))


def _lines(path: str | Path) -> Iterator[_Line]:
    for number, text in language_lines(path, LangError):
        fields = compose(_COMMENT.split(text, maxsplit=1)[0]).split()
        if not fields or text.startswith(";;;"):
            continue
        variant = _VARIANT.match(fields[0])
        yield _Line(number, variant.group(1) if variant else fields[0], fields[1:])


def _format(name: str, lines: list[_Line]) -> _Format:
    # the longer name first: it begins with the other
    for form in (_SILPROB, _LEXICONP):
        stem = form.name.removesuffix(".txt")
        if name.startswith(stem):
            return form
        # digits alone, 1 after every word, may be a phone (X-SAMPA), a decimal is none
        if all(_has_numbers(line, form) for line in lines) and any(
            _DECIMAL.fullmatch(line.fields[0]) for line in lines
        ):
            return form
    return _PLAIN


def _has_numbers(line: _Line, form: _Format) -> bool:
    """Whether a probability and the format's other numbers follow the word."""
    numbers = line.fields[: form.numbers]
    return (
        len(numbers) == form.numbers
        and bool(_NUMBER.fullmatch(numbers[0]))
        and 0.0 < float(numbers[0]) <= 1.0
        and all(_NUMBER.fullmatch(text) and math.isfinite(float(text)) for text in numbers[1:])
    )


def _fault(line: _Line, form: _Format) -> str:
    """What is wrong with an entry; empty where nothing is."""
    if form.numbers and not _has_numbers(line, form):
        first = " ".join(line.fields[: form.numbers])
        return (
            f"{first!r} after {line.word!r}: want {form.numbers} number(s) as in Kaldi's "
            f"{form.name}, the first a probability in (0, 1]"
        )
    if _RESERVED_WORD.fullmatch(line.word):
        return f"reserved symbol {line.word!r} as a word: it belongs to the graphs; take it out"
    if not line.fields[form.numbers :]:
        return f"empty pronunciation of {line.word!r}"
    for phone in line.fields[form.numbers :]:
        if _RESERVED.fullmatch(phone):
            return f"reserved symbol {phone!r} of {line.word!r}"
        if _DECIMAL.fullmatch(phone):
            return (
                f"{phone!r} of {line.word!r} is a number, not a phone; a probability stands after "
                "the word, in every line"
            )
    return ""
