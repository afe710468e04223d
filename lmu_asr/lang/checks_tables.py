"""Checks of a lang directory's files, of their form as text, and of the symbol tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from lmu_asr.errors import LangError
from lmu_asr.lang.lang import BLANK, BOS, BOUNDARY, EOS, EPSILON, content_fingerprint
from lmu_asr.lang.lang_files import (
    FSTS,
    LEXICA,
    TABLES,
    TEXT_FILES,
    LangFiles,
    Registry,
    is_disambig,
)
from lmu_asr.lang.lexicon import SILENCE

CHECKS = Registry()
_UNITS = ("char", "bpe", "phone")


@CHECKS.always("exists and is not empty", *TEXT_FILES, *FSTS, "lang.json")
def _exists(files: LangFiles, name: str) -> Iterator[str]:
    if not files.data(name):
        state = "empty" if (files.dir / name).is_file() else "missing"
        yield f"{files.at(name)}: {state}; run the lang stage again with --force"


@CHECKS.check("is a JSON object", "lang.json")
def _json(files: LangFiles, name: str) -> Iterator[str]:
    if not files.info:
        yield f"{files.at(name)}: not a JSON object with content"


@CHECKS.check("names a known unit", "lang.json")
def _unit(files: LangFiles, name: str) -> Iterator[str]:
    if files.unit not in _UNITS:
        yield f"{files.at(name)}: unit {files.unit!r}: want one of {', '.join(_UNITS)}"


@CHECKS.check("carries the fingerprint of the content", "lang.json", needs=(*TEXT_FILES, *FSTS))
def _fingerprint(files: LangFiles, name: str) -> Iterator[str]:
    try:
        found = content_fingerprint(files.dir, files.unit)
    except LangError as error:
        yield str(error)
        return
    if found != files.info.get("fingerprint"):
        yield (
            f"{files.at(name)}: fingerprint {files.info.get('fingerprint')!r}, "
            f"but the files give {found!r}: a file was changed after it was made"
        )


@CHECKS.check("counts tokens as tokens.txt does", "lang.json", needs=("tokens.txt",))
def _vocab_size(files: LangFiles, name: str) -> Iterator[str]:
    found = sum(not is_disambig(symbol) for symbol in files.ids("tokens.txt"))
    if files.info.get("vocab_size") != found:
        yield f"{files.at(name)}: vocab_size {files.info.get('vocab_size')}, tokens.txt has {found}"


@CHECKS.check("counts words as words.txt does", "lang.json", needs=("words.txt",))
def _num_words(files: LangFiles, name: str) -> Iterator[str]:
    found = len(files.lines("words.txt"))
    if files.info.get("num_words") != found:
        yield f"{files.at(name)}: num_words {files.info.get('num_words')}, words.txt has {found}"


@CHECKS.check("counts entries as lexicon.txt does", "lang.json", needs=("lexicon.txt",))
def _num_entries(files: LangFiles, name: str) -> Iterator[str]:
    found = len(files.lines("lexicon.txt"))
    if files.info.get("num_entries") != found:
        yield (
            f"{files.at(name)}: num_entries {files.info.get('num_entries')}, "
            f"lexicon.txt has {found}"
        )


@CHECKS.always("stands beside BPE tokens and no others", "bpe.model")
def _bpe_model(files: LangFiles, name: str) -> Iterator[str]:
    there = (files.dir / name).is_file()
    if there != (files.unit == "bpe"):
        yield f"{files.at(name)}: {'stands' if there else 'missing'} with unit {files.unit!r}"


@CHECKS.check("is a sentencepiece model", "bpe.model")
def _bpe_loads(files: LangFiles, name: str) -> Iterator[str]:
    if files.processor is None:
        yield f"{files.at(name)}: sentencepiece cannot load it"


@CHECKS.check("is UTF-8", *TEXT_FILES)
def _utf8(files: LangFiles, name: str) -> Iterator[str]:
    for number, row in enumerate(files.data(name).split(b"\n"), 1):
        try:
            row.decode("utf-8")
        except UnicodeDecodeError as error:
            yield f"{files.at(name, number)}: byte {row[error.start]:#04x} is not UTF-8"


@CHECKS.check("starts without byte order mark", *TEXT_FILES)
def _byte_order_mark(files: LangFiles, name: str) -> Iterator[str]:
    if files.data(name).startswith(b"\xef\xbb\xbf"):
        yield f"{files.at(name, 1)}: starts with a byte order mark"


@CHECKS.check("ends with a line feed", *TEXT_FILES)
def _line_feed(files: LangFiles, name: str) -> Iterator[str]:
    if not files.data(name).endswith(b"\n"):
        last = files.data(name).count(b"\n") + 1
        yield f"{files.at(name, last)}: the last line has no line feed"


@CHECKS.check("has no carriage returns", *TEXT_FILES)
def _carriage_return(files: LangFiles, name: str) -> Iterator[str]:
    if b"\r" in files.data(name):
        number = files.data(name).split(b"\r", 1)[0].count(b"\n") + 1
        yield f"{files.at(name, number)}: carriage return; want line feeds alone"


@CHECKS.check("has no blank lines", *TEXT_FILES)
def _blank_line(files: LangFiles, name: str) -> Iterator[str]:
    for number, row in enumerate(files.data(name).split(b"\n")[:-1], 1):
        if not row.strip():
            yield f"{files.at(name, number)}: blank line"


@CHECKS.check("separates fields by one space", *TEXT_FILES)
def _spacing(files: LangFiles, name: str) -> Iterator[str]:
    for number, row in enumerate(files.data(name).split(b"\n"), 1):
        if b"\t" in row or b"  " in row or row[:1] == b" " or row[-1:] == b" ":
            yield f"{files.at(name, number)}: want fields with one space between and none around"


@CHECKS.check("has lines of symbol and id", *TABLES)
def _two_fields(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if len(line.fields) != 2:
            yield f"{files.at(name, line.number)}: {len(line.fields)} fields: want 'symbol id'"


@CHECKS.check("has ids that are plain integers", *TABLES)
def _integer_ids(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        text = line.fields[-1]
        if not (text.isascii() and text.isdecimal() and text == str(int(text))):
            yield f"{files.at(name, line.number)}: id {text!r} is no plain integer"


@CHECKS.check("has ids that count up from 0", *TABLES)
def _contiguous(files: LangFiles, name: str) -> Iterator[str]:
    for want, line in enumerate(files.lines(name)):
        if line.fields[-1] != str(want):
            yield f"{files.at(name, line.number)}: id {line.fields[-1]} where {want} should be"
            return


@CHECKS.check("has each id once", *TABLES)
def _unique_ids(files: LangFiles, name: str) -> Iterator[str]:
    yield from _twice(files, name, -1, "id")


@CHECKS.check("has each symbol once", *TABLES)
def _unique_symbols(files: LangFiles, name: str) -> Iterator[str]:
    yield from _twice(files, name, 0, "symbol")


def _twice(files: LangFiles, name: str, field: int, what: str) -> Iterator[str]:
    seen: dict[str, int] = {}
    for line in files.lines(name):
        value = line.fields[field]
        if value in seen:
            yield f"{files.at(name, line.number)}: {what} {value!r} stands in line {seen[value]} already"
        seen.setdefault(value, line.number)


@CHECKS.check("has printable symbols", *TABLES)
def _printable(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if any(ord(char) < 32 or ord(char) == 127 for char in line.fields[0]):
            yield f"{files.at(name, line.number)}: control character in {line.fields[0]!r}"


@CHECKS.check("starts with its first symbol", *TABLES)
def _first_symbol(files: LangFiles, name: str) -> Iterator[str]:
    want = BLANK if name == "tokens.txt" else EPSILON
    found = files.lines(name)[0].fields[0] if files.lines(name) else ""
    if found != want:
        yield f"{files.at(name, 1)}: {found!r} has id 0: want {want!r}"


@CHECKS.check("holds no symbol of the word level", "tokens.txt")
def _word_level(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if line.fields[0] in (EPSILON, BOS, EOS):
            yield f"{files.at(name, line.number)}: {line.fields[0]} belongs to words.txt alone"


@CHECKS.check("holds real tokens", "tokens.txt")
def _real_tokens(files: LangFiles, name: str) -> Iterator[str]:
    if not any(not is_disambig(s) and s != BLANK for s in files.ids(name)):
        yield f"{files.at(name)}: no token beside the blank and disambiguation symbols"


@CHECKS.check("has #0", *TABLES)
def _zero(files: LangFiles, name: str) -> Iterator[str]:
    if "#0" not in files.ids(name):
        yield f"{files.at(name)}: no #0, the symbol of the grammar's back-off arcs"


@CHECKS.check("numbers #0 #1 ... without gap and in order", "tokens.txt")
def _disambig_order(files: LangFiles, name: str) -> Iterator[str]:
    marks = [line for line in files.lines(name) if is_disambig(line.fields[0])]
    for index, line in enumerate(marks):
        if line.fields[0] != f"#{index}":
            yield f"{files.at(name, line.number)}: {line.fields[0]} where #{index} should be"
            return


@CHECKS.check("has disambiguation symbols after all tokens", "tokens.txt")
def _disambig_last(files: LangFiles, name: str) -> Iterator[str]:
    marks = 0
    for line in files.lines(name):
        marks += is_disambig(line.fields[0])
        if marks and not is_disambig(line.fields[0]):
            yield f"{files.at(name, line.number)}: token {line.fields[0]!r} after #0"


@CHECKS.check("has single characters where characters are the unit", "tokens.txt")
def _char_tokens(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name) if files.unit == "char" else ():
        symbol = line.fields[0]
        if len(symbol) != 1 and symbol != BLANK and not is_disambig(symbol):
            yield f"{files.at(name, line.number)}: token {symbol!r} is no single character"


@CHECKS.check("has the word boundary where characters are the unit", "tokens.txt")
def _boundary(files: LangFiles, name: str) -> Iterator[str]:
    if files.unit == "char" and BOUNDARY not in files.ids(name):
        yield f"{files.at(name)}: no token {BOUNDARY!r}, the word boundary"


@CHECKS.check("has the pieces of bpe.model", "tokens.txt", needs=("bpe.model",))
def _pieces(files: LangFiles, name: str) -> Iterator[str]:
    model = files.processor
    if model is None or files.unit != "bpe":
        return
    found = [line for line in files.lines(name) if not is_disambig(line.fields[0])]
    if len(found) != len(model):
        yield f"{files.at(name)}: {len(found)} tokens, bpe.model has {len(model)} pieces"
    for index, line in enumerate(found[: len(model)]):
        if line.fields[0] != model.id_to_piece(index):
            yield (
                f"{files.at(name, line.number)}: token {line.fields[0]!r}, "
                f"piece {index} of bpe.model is {model.id_to_piece(index)!r}"
            )
            return


@CHECKS.check("has the silence phone where silence is optional", "tokens.txt")
def _silence(files: LangFiles, name: str) -> Iterator[str]:
    if files.silence and SILENCE not in files.ids(name):
        yield f"{files.at(name)}: no token {SILENCE!r}, which optional silence needs"


@CHECKS.check("has <s> and </s>", "words.txt")
def _sentence_symbols(files: LangFiles, name: str) -> Iterator[str]:
    for symbol in (BOS, EOS):
        if symbol not in files.ids(name):
            yield f"{files.at(name)}: no {symbol}"


@CHECKS.check("ends with #0 <s> </s>", "words.txt")
def _last_words(files: LangFiles, name: str) -> Iterator[str]:
    found = [line.fields[0] for line in files.lines(name)[-3:]]
    if found != ["#0", BOS, EOS]:
        yield f"{files.at(name)}: ends with {' '.join(found)}: want #0 {BOS} {EOS}"


@CHECKS.check("has words in order of their characters", "words.txt")
def _words_sorted(files: LangFiles, name: str) -> Iterator[str]:
    lines = files.lines(name)[1:-3]
    for before, line in itertools.pairwise(lines):
        if before.fields[0] > line.fields[0]:
            yield f"{files.at(name, line.number)}: {line.fields[0]!r} after {before.fields[0]!r}"
            return


@CHECKS.check("holds no disambiguation symbol but #0", "words.txt")
def _words_disambig(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name):
        if is_disambig(line.fields[0]) and line.fields[0] != "#0":
            yield f"{files.at(name, line.number)}: {line.fields[0]} belongs to tokens.txt alone"


@CHECKS.check("holds no blank", "words.txt")
def _words_blank(files: LangFiles, name: str) -> Iterator[str]:
    if BLANK in files.ids(name):
        yield f"{files.at(name)}: {BLANK} belongs to tokens.txt alone"


@CHECKS.check("holds no word with the boundary symbol", "words.txt")
def _words_boundary(files: LangFiles, name: str) -> Iterator[str]:
    for line in files.lines(name) if files.unit in ("char", "bpe") else ():
        if BOUNDARY in line.fields[0]:
            yield f"{files.at(name, line.number)}: {BOUNDARY!r} in the word {line.fields[0]!r}"


@CHECKS.check("gives every word a line in lexicon.txt", "words.txt", needs=LEXICA)
def _words_spelled(files: LangFiles, name: str) -> Iterator[str]:
    spelled = {line.fields[0] for line in files.lines("lexicon.txt")}
    for line in files.lines(name):
        if line.fields[0] not in spelled and line.fields[0] not in (EPSILON, "#0", BOS, EOS):
            yield f"{files.at(name, line.number)}: {line.fields[0]!r} has no line in lexicon.txt"
