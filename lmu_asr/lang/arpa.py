"""ARPA files: a strict reader and a writer whose bytes depend on the model alone."""

from __future__ import annotations

import gzip
import logging
import math
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from lmu_asr.errors import LangError
from lmu_asr.files import atomic_open
from lmu_asr.lang.spelling import compose
from lmu_asr.lang.trie import BOS, EOS, MINUS_INFINITY, UNK, Level, NgramModel
from lmu_asr.text_lines import language_lines

log = logging.getLogger(__name__)

_COUNT = re.compile(r"ngram\s+([0-9]{1,3})\s*=\s*([0-9]{1,15})$")
_BLOCK = 50000
HIGHEST_ORDER = 20  # the time to read a file grows faster than the order
# what other tools call the symbols that every model has
_OTHER_NAMES = {
    BOS: ("<S>",),
    EOS: ("</S>",),
    UNK: ("<UNK>", "<oov>", "<OOV>", "<unknown>", "<UNKNOWN>", "[unk]", "[UNK]"),
}


def write_arpa(model: NgramModel, path: str | Path) -> None:
    """Write ``model`` atomically, compressed where ``path`` ends in ``.gz``; seven digits a number."""
    with atomic_open(path, "wb") as raw:
        if str(path).endswith(".gz"):
            # neither name nor time in gzip's header, so that equal models give equal bytes
            with gzip.GzipFile(
                filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=6
            ) as out:
                _write(model, out)
        else:
            _write(model, raw)


def _write(model: NgramModel, out: IO[Any] | gzip.GzipFile) -> None:
    header = ["\\data\\", *(f"ngram {k}={n}" for k, n in enumerate(model.counts, 1)), ""]
    out.write("\n".join([*header, ""]).encode())
    for order in range(1, model.order + 1):
        out.write(f"\\{order}-grams:\n".encode())
        for block in _lines(model, order):
            out.write(block.encode())
        out.write(b"\n")
    out.write(b"\\end\\\n")


def _lines(model: NgramModel, order: int) -> Iterator[str]:
    level = model.levels[order - 1]
    names = np.array(model.symbols, dtype=object)
    words = model.words_of(order)
    for start in range(0, len(level), _BLOCK):
        part = slice(start, start + _BLOCK)
        texts = map(" ".join, names[words[part]].tolist())
        probs = level.logprob[part].tolist()
        if order == model.order:
            yield "".join(f"{p:.7g}\t{t}\n" for p, t in zip(probs, texts, strict=True))
        else:
            rows = zip(probs, texts, level.backoff[part].tolist(), strict=True)
            yield "".join(f"{p:.7g}\t{t}\t{b:.7g}\n" for p, t, b in rows)


def read_arpa(path: str | Path) -> NgramModel:
    """Read an ARPA file (``.gz`` allowed) of any order.

    N-grams whose first words are no n-gram of their own are kept: the missing ones are added with
    the probability that backing off gives them, which changes no probability.

    Raises:
        LangError: anything else that is wrong, naming the file and the line.
    """
    return _Reader(Path(path)).read()


def read_arpa_lines(path: str | Path) -> tuple[NgramModel, array[int]]:
    """Read as :func:`read_arpa` does; return the line of each symbol of the model as well."""
    reader = _Reader(Path(path))
    return reader.read(), reader.symbol_lines


class _Reader:
    """One pass over a file that knows the line it is at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.symbols: list[str] = []
        self.symbol_lines = array("q")
        self.ids: dict[str, int] = {}
        self.levels: list[Level] = []
        self.added = 0

    def fail(self, reason: str, number: int | None = None) -> LangError:
        """Return the error that names the file and the line at hand, or line ``number``."""
        return LangError(f"{self.path}:{self.number if number is None else number}: {reason}")

    def read(self) -> NgramModel:
        """Read the whole file."""
        lines = self._lines()
        model = self._parse(lines)
        rest = sum(bool(line) for line in lines)  # to the end: a compressed file has its sum there
        if rest:
            log.warning("%s: %d lines after '\\end\\' are not read", self.path, rest)
        return model

    def _lines(self) -> Iterator[str]:
        for number, line in language_lines(self.path, LangError):
            self.number = number
            yield line.strip(" \t\r")

    def _parse(self, lines: Iterator[str]) -> NgramModel:
        counts, line = self._header(lines)
        for order, count in enumerate(counts, 1):
            if line != f"\\{order}-grams:":
                raise self.fail(f"'{line}' where '\\{order}-grams:' should begin")
            line = self._section(lines, order, count, order == len(counts))
        if line != "\\end\\":
            raise self.fail(f"'{line}' where '\\end\\' should stand")
        if self.added:
            log.info("%s: added %d n-grams that longer ones start with", self.path, self.added)
        return NgramModel(self.symbols, self.levels)

    def _header(self, lines: Iterator[str]) -> tuple[list[int], str]:
        for line in lines:
            if line == "\\data\\":
                break
        else:
            raise self.fail("no '\\data\\' line: this is not an ARPA file", max(self.number, 1))
        counts: list[int] = []
        for line in lines:
            match = _COUNT.match(line)
            if match and int(match[1]) == len(counts) + 1:
                counts.append(int(match[2]))
                if len(counts) > HIGHEST_ORDER:
                    raise self.fail(f"n-grams of order {len(counts)}: want {HIGHEST_ORDER} at most")
            elif line:
                break
        if not counts or counts[0] == 0:
            raise self.fail("the header counts no 1-grams: want 'ngram 1=...', 'ngram 2=...'")
        return counts, line

    def _section(self, lines: Iterator[str], order: int, count: int, last: bool) -> str:
        """Read the n-grams of one order; return the line that ends them."""
        # arrays: 8 bytes a number, where a list takes about 40
        words, numbers = array("q"), array("q")
        probs, backoffs = array("d"), array("d")
        first = self.number + 1
        for line in lines:
            if line.startswith("\\") and len(line.split()) == 1:
                break
            if line:
                prob, names, backoff = self._entry(line, order, last)
                words.extend(self._new_word(names[0]) if order == 1 else self._known(names))
                numbers.append(self.number)
                probs.append(prob)
                backoffs.append(backoff)
        else:
            raise self.fail(f"the file ends within the {order}-grams, before '\\end\\'")
        if len(probs) != count:
            raise self.fail(
                f"{len(probs)} {order}-grams from line {first} on, where the header says {count}"
            )
        if order == 1:
            self._take_other_names()
        ids = np.array(words).reshape(-1, order)
        self._add_level(ids, np.array(probs), np.array(backoffs), np.array(numbers))
        return line

    def _entry(self, line: str, order: int, last: bool) -> tuple[float, list[str], float]:
        """Return log10 probability, words and log10 back-off of one line."""
        if line.isascii():
            fields = line.split()
        else:  # a word may hold a no-break space, at which str.split would cut it
            fields = [field for field in line.replace("\t", " ").split(" ") if field]
        if len(fields) != order + 1 and (last or len(fields) != order + 2):
            raise self.fail(
                f"{len(fields)} fields, want log10 probability, {order} words"
                + ("" if last else " and perhaps a back-off")
            )
        prob = self._value(fields[0], "log10 probability")
        if prob > 0:
            raise self.fail(f"log10 probability {fields[0]} is above 0")
        has_backoff = len(fields) == order + 2
        backoff = self._value(fields[-1], "back-off") if has_backoff else 0.0
        return prob, fields[1 : order + 1], backoff

    def _value(self, text: str, name: str) -> float:
        try:
            value = float(text if "_" not in text else "")  # Python reads 1_0 as 10
        except ValueError:
            raise self.fail(f"{name} {text!r} is no number") from None
        if value == -math.inf:
            return MINUS_INFINITY
        if not math.isfinite(value):
            raise self.fail(f"{name} {text} is not finite")
        return max(value, MINUS_INFINITY)

    def _new_word(self, name: str) -> list[int]:
        if name in self.ids:
            raise self.fail(f"{name!r} stands among the 1-grams already")
        self.ids[name] = len(self.symbols)
        self.symbols.append(name)
        self.symbol_lines.append(self.number)
        return [self.ids[name]]

    def _take_other_names(self) -> None:
        """Give ``<s>``, ``</s>`` and ``<unk>`` their names where another tool wrote others."""
        for symbol, others in _OTHER_NAMES.items():
            other = next((name for name in others if name in self.ids), None)
            if other and symbol not in self.ids:
                self.ids[symbol] = self.ids[other]  # longer n-grams still use the other name
                self.symbols[self.ids[other]] = symbol
                log.info("%s: %s is read as %s", self.path, other, symbol)

    def _known(self, names: list[str]) -> list[int]:
        try:
            return [self.ids[name] for name in names]
        except KeyError as error:
            word = error.args[0]
            form = next((s for s in self.symbols if compose(s) == compose(word)), "")
            hint = f", which have it in another Unicode form, {form!a} for {word!a}" if form else ""
            raise self.fail(f"word {word!r} is not among the 1-grams{hint}") from None

    def _add_level(
        self, ids: np.ndarray, probs: np.ndarray, backoffs: np.ndarray, numbers: np.ndarray
    ) -> None:
        if ids.shape[1] > 1:
            self._add_missing(ids[:, :-1])
        parent = self._rows(ids[:, :-1])
        key = parent * len(self.symbols) + ids[:, -1]
        rank = np.argsort(key, kind="stable")
        twice = np.flatnonzero(np.diff(key[rank]) == 0)
        if len(twice):
            one, other = rank[twice[0]], rank[twice[0] + 1]
            text = " ".join(self.symbols[i] for i in ids[one])
            raise self.fail(f"{text!r} stands in line {numbers[one]} already", numbers[other])
        self.levels.append(Level(parent[rank], ids[rank, -1], probs[rank], backoffs[rank]))

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of n-grams (M, k) in level k, -1 where there is none; 0 for k = 0."""
        model = NgramModel(self.symbols, self.levels)
        rows = np.zeros(len(ids), dtype=np.int64)
        for order in range(1, ids.shape[1] + 1):
            rows = model.find(order, rows, ids[:, order - 1])
        return rows

    def _add_missing(self, contexts: np.ndarray) -> None:
        """Add the n-grams ``contexts`` (M, k) that level k lacks, and theirs below."""
        missing = np.unique(contexts[self._rows(contexts) < 0], axis=0)
        if not len(missing):
            return
        if contexts.shape[1] > 2:
            self._add_missing(missing[:, :-1])
        self.added += len(missing)
        order = missing.shape[1]
        model = NgramModel(self.symbols, self.levels)
        probs = model.conditional(missing[:, :-1], missing[:, -1])
        old = self.levels[order - 1]
        # rows of this level may have moved when the one below grew
        parent = np.concatenate([old.parent, self._rows(missing[:, :-1])])
        word = np.concatenate([old.word, missing[:, -1]])
        rank = np.argsort(parent * len(self.symbols) + word, kind="stable")
        self.levels[order - 1] = Level(
            parent[rank],
            word[rank],
            np.concatenate([old.logprob, probs])[rank],
            np.concatenate([old.backoff, np.zeros(len(missing))])[rank],
        )
