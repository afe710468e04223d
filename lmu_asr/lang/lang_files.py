"""A lang directory as its files stand, read without trust, for :mod:`lmu_asr.lang.validate`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from lmu_asr.errors import DocumentError, LangError
from lmu_asr.files import parse_json
from lmu_asr.lang.openfst import FstColumns, read_fst

TEXT_FILES = ("tokens.txt", "words.txt", "lexicon.txt", "lexicon_disambig.txt")
TABLES = ("tokens.txt", "words.txt")
LEXICA = ("lexicon.txt", "lexicon_disambig.txt")
FSTS = ("L.fst", "L_disambig.fst")


@dataclass(frozen=True)
class Line:
    """One line of a text file: its number and its fields between single spaces."""

    number: int
    fields: tuple[str, ...]


class LangFiles:
    """Content of a lang directory; whatever cannot be read is empty and reported by its own check."""

    def __init__(self, directory: Path, texts: Iterable[str] = ()) -> None:
        self.dir = directory
        self.texts = texts

    def at(self, name: str, line: int | None = None) -> str:
        """Return ``file`` or ``file:line`` for a message."""
        return f"{self.dir / name}" + ("" if line is None else f":{line}")

    @functools.cache  # noqa: B019 - one short-lived object a validation
    def data(self, name: str) -> bytes:
        """Bytes of a file, none where it is missing."""
        path = self.dir / name
        return path.read_bytes() if path.is_file() else b""

    @functools.cache  # noqa: B019
    def lines(self, name: str) -> list[Line]:
        """Lines of a text file that are not blank, split at spaces and tabs."""
        # bytes that are no UTF-8 are reported by their own check
        rows = self.data(name).decode("utf-8", errors="replace").split("\n")
        split = ((n, tuple(row.replace("\t", " ").split())) for n, row in enumerate(rows, 1))
        return [Line(number, fields) for number, fields in split if fields]

    @functools.cache  # noqa: B019
    def ids(self, name: str) -> dict[str, int]:
        """Symbols of a table by their written ids; lines that are no ``symbol id`` are left out."""
        pairs = (line.fields for line in self.lines(name) if len(line.fields) == 2)
        return {symbol: int(text) for symbol, text in pairs if text.isdecimal() and len(text) < 10}

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """Content of ``lang.json``, empty where it is broken."""
        try:
            info = parse_json(self.data("lang.json"), self.at("lang.json"))
        except DocumentError:
            return {}
        return info if isinstance(info, dict) else {}

    @property
    def unit(self) -> str:
        """``char``, ``bpe``, ``phone``, or nothing that is known."""
        return str(self.info.get("unit", ""))

    @property
    def silence(self) -> bool:
        """Whether the lang directory was made with optional silence."""
        options = self.info.get("options")
        wanted = isinstance(options, dict) and bool(options.get("optional_silence"))
        return wanted and self.unit == "phone"

    @functools.cached_property
    def processor(self) -> sentencepiece.SentencePieceProcessor | None:
        """The sentencepiece model, or None where there is none that loads."""
        if not self.data("bpe.model"):
            return None
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.data("bpe.model"))
        except RuntimeError:
            return None

    @functools.cache  # noqa: B019
    def _fst(self, name: str) -> tuple[FstColumns | None, str]:
        try:
            return read_fst(self.dir / name), ""
        except LangError as error:
            return None, str(error)

    def fst(self, name: str) -> FstColumns | None:
        """A transducer, or None where the file is missing or broken; see :meth:`fst_fault`."""
        return self._fst(name)[0] if self.data(name) else None

    def fst_fault(self, name: str) -> str:
        """Why a transducer cannot be read; empty where it can."""
        return self._fst(name)[1]


Check = Callable[[LangFiles, str], Iterator[str]]


@dataclass(frozen=True)
class Registered:
    """One check of one file: what must hold, the file, the files it builds on, the function."""

    title: str
    name: str
    needs: tuple[str, ...]
    function: Check

    def run(self, files: LangFiles) -> list[str]:
        """Return the faults; none where a file that it builds on is missing (reported elsewhere)."""
        if any(not files.data(name) for name in self.needs):
            return []
        return list(self.function(files, self.name))


class Registry(list[Registered]):
    """Checks in the order in which they are declared."""

    def check(self, title: str, *names: str, needs: tuple[str, ...] = ()) -> Callable[..., Check]:
        """Declare one check for each of ``names``; it runs where they and ``needs`` are there."""

        def register(function: Check) -> Check:
            for name in names:
                self.append(Registered(f"{name}: {title}", name, (name, *needs), function))
            return function

        return register

    def always(self, title: str, *names: str) -> Callable[..., Check]:
        """Declare one check for each of ``names`` that runs even where the file is missing."""

        def register(function: Check) -> Check:
            self.extend(Registered(f"{name}: {title}", name, (), function) for name in names)
            return function

        return register


def is_disambig(symbol: str) -> bool:
    """Whether ``symbol`` is ``#0``, ``#1`` and so on."""
    return len(symbol) > 1 and symbol[0] == "#" and symbol[1:].isdecimal()
