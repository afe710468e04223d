"""Checks of a lang directory's lexica, and of training text against them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from lmu_asr.lang.lang import BLANK, BOS, BOUNDARY, EOS, EPSILON
from lmu_asr.lang.lang_files import LEXICA, TABLES, LangFiles, Registry, is_disambig
from lmu_asr.lang.lexicon import add_disambig

CHECKS = Registry()


@CHECKS.check("has a token sequence for every word", *LEXICA)
def _not_empty(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if not [token for token in line.fields[1:] if not is_disambig(token)]:
            yield f"{files.at(name, line.number)}: empty pronunciation of {line.fields[0]!r}"


@CHECKS.check("has words of words.txt", *LEXICA, needs=TABLES)
def _known_words(files: LangFiles, name: str) -> Iterator[str]:
    known = files.ids("words.txt")
    for line in files.lines(name):
        if line.fields[0] not in known:
            yield f"{files.at(name, line.number)}: word {line.fields[0]!r} is not in words.txt"


@CHECKS.check("has tokens of tokens.txt", *LEXICA, needs=TABLES)
def _known_tokens(files: LangFiles, name: str) -> Iterator[str]:
    known = files.ids("tokens.txt")
    for line in files.lines(name):
        for token in line.fields[1:]:
            if token not in known:
                yield (
                    f"{files.at(name, line.number)}: token {token!r} of {line.fields[0]!r} "
                    "is not in tokens.txt"
                )


@CHECKS.check("has no reserved symbol as a word", *LEXICA)
def _reserved_words(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if line.fields[0] in (EPSILON, BOS, EOS, BLANK, "#0"):
            yield f"{files.at(name, line.number)}: reserved symbol {line.fields[0]} as a word"


@CHECKS.check("has no blank in its token sequences", *LEXICA)
def _no_blank(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if BLANK in line.fields[1:]:
            yield f"{files.at(name, line.number)}: {BLANK} in the tokens of {line.fields[0]!r}"


@CHECKS.check("has no disambiguation symbol", "lexicon.txt")
def _no_disambig(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        marks = [token for token in line.fields[1:] if is_disambig(token)]
        if marks:
            yield f"{files.at(name, line.number)}: {marks[0]} in the tokens of {line.fields[0]!r}"


@CHECKS.check("has each entry once", *LEXICA)
def _duplicates(files: LangFiles, name: str) -> Iterator[str]:
    seen: dict[tuple[str, ...], int] = {}
    for line in files.lines(name):
        if line.fields in seen:
            first = seen[line.fields]
            text = " ".join(line.fields)
            yield f"{files.at(name, line.number)}: {text!r} stands in line {first} already"
        seen.setdefault(line.fields, line.number)


@CHECKS.check("has words in order", *LEXICA)
def _sorted(files: LangFiles, name: str) -> Iterator[str]:
    lines = files.lines(name)
    for before, line in itertools.pairwise(lines):
        if before.fields[0] > line.fields[0]:
            yield f"{files.at(name, line.number)}: {line.fields[0]!r} after {before.fields[0]!r}"
            return


@CHECKS.check("spells a word one way unless phones are the unit", "lexicon.txt")
def _one_spelling(files: LangFiles, name: str) -> Iterator[str]:
    seen: dict[str, int] = {}
    for line in files.lines(name) if files.unit in ("char", "bpe") else ():
        word = line.fields[0]
        if word in seen:
            yield f"{files.at(name, line.number)}: {word!r} is spelled in line {seen[word]} already"
        seen.setdefault(word, line.number)


@CHECKS.check("spells words as encoding does", "lexicon.txt")
def _spelling(files: LangFiles, name: str) -> Iterator[str]:
    model = files.processor
    for line in files.lines(name):
        word, *tokens = line.fields
        if files.unit == "char":
            want = [BOUNDARY, *word]
        elif files.unit == "bpe" and model is not None:
            want = model.encode(word, out_type=str)
        else:
            return
        if tokens != want:
            yield (
                f"{files.at(name, line.number)}: {word!r} is spelled {' '.join(tokens)}, "
                f"encoding gives {' '.join(want)}"
            )


@CHECKS.check("has as many entries as lexicon.txt", "lexicon_disambig.txt", needs=LEXICA)
def _same_length(files: LangFiles, name: str) -> Iterator[str]:
    want, found = len(files.lines("lexicon.txt")), len(files.lines(name))
    if want != found:
        yield f"{files.at(name)}: {found} entries, lexicon.txt has {want}"


@CHECKS.check("has the entries of lexicon.txt", "lexicon_disambig.txt", needs=LEXICA)
def _same_entries(files: LangFiles, name: str) -> Iterator[str]:
    # how many there are is a check of its own, _same_length
    for line, want in zip(files.lines(name), files.lines("lexicon.txt"), strict=False):
        plain = tuple(f for i, f in enumerate(line.fields) if not i or not is_disambig(f))
        if plain != want.fields:
            yield (
                f"{files.at(name, line.number)}: {' '.join(plain)!r}, "
                f"line {want.number} of lexicon.txt is {' '.join(want.fields)!r}"
            )
            return


@CHECKS.check("has disambiguation symbols at the end of an entry", "lexicon_disambig.txt")
def _marks_last(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if any(map(is_disambig, line.fields[1:-1])):
            yield f"{files.at(name, line.number)}: disambiguation symbol before the last token"


@CHECKS.check("leaves #0 to the grammar", "lexicon_disambig.txt")
def _no_zero(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if "#0" in line.fields[1:]:
            yield f"{files.at(name, line.number)}: #0 belongs to the grammar's back-off arcs"


@CHECKS.check("has no token sequence twice", "lexicon_disambig.txt")
def _homophones(files: LangFiles, name: str) -> Iterator[str]:
    seen: dict[tuple[str, ...], int] = {}
    for line in files.lines(name):
        tokens = line.fields[1:]
        if tokens in seen:
            yield (
                f"{files.at(name, line.number)}: the tokens of {line.fields[0]!r} are those of line "
                f"{seen[tokens]}: L_disambig composed with G would not determinise"
            )
        seen.setdefault(tokens, line.number)


@CHECKS.check("has no token sequence that starts another", "lexicon_disambig.txt")
def _prefixes(files: LangFiles, name: str) -> Iterator[str]:
    lines = {line.fields[1:]: line for line in files.lines(name)}
    for tokens, line in lines.items():
        for end in range(1, len(tokens)):
            if tokens[:end] in lines:
                other = lines[tokens[:end]]
                yield (
                    f"{files.at(name, other.number)}: the tokens of {other.fields[0]!r} start those "
                    f"of {line.fields[0]!r} in line {line.number} and need a symbol of their own"
                )


@CHECKS.check("uses the symbols that tokens.txt has", "lexicon_disambig.txt", needs=TABLES)
def _highest(files: LangFiles, name: str) -> Iterator[str]:
    used = [int(t[1:]) for line in files.lines(name) for t in line.fields[1:] if is_disambig(t)]
    want = max(used, default=0) + files.silence
    found = max((int(s[1:]) for s in files.ids("tokens.txt") if is_disambig(s)), default=0)
    if want != found:
        yield f"{files.at(name)}: needs symbols up to #{want}, tokens.txt ends with #{found}"


@CHECKS.check("has the symbols that the rule gives", "lexicon_disambig.txt", needs=LEXICA)
def _rule(files: LangFiles, name: str) -> Iterator[str]:
    plain = [(line.fields[0], line.fields[1:]) for line in files.lines("lexicon.txt")]
    # how many there are is a check of its own, _same_length
    for line, (word, tokens) in zip(files.lines(name), add_disambig(plain)[0], strict=False):
        if line.fields != (word, *tokens):
            yield (
                f"{files.at(name, line.number)}: {' '.join(line.fields)!r} "
                f"should be {' '.join((word, *tokens))!r}"
            )
            return


@CHECKS.check("spells every word of the training text", "lexicon.txt")
def _text(files: LangFiles, name: str) -> Iterator[str]:
    spelled = {line.fields[0] for line in files.lines(name)}
    for number, text in enumerate(files.texts, 1):
        for word in text.split():
            if word not in spelled:
                spelled.add(word)
                yield f"{files.at(name)}: no entry for {word!r}, in sentence {number} of the text"
