"""The lang directory in memory: tokens, words, lexicon and tokenizer, with one fingerprint.

Files, in the formats of Kaldi and icefall: ``tokens.txt`` and ``words.txt`` (symbol, space, id),
``lexicon.txt``, ``lexicon_disambig.txt``, ``L.fst``, ``L_disambig.fst``, ``bpe.model`` for BPE, and
``lang.json`` with the unit and the fingerprint, written last. Token 0 is the blank ``<blk>``; the
disambiguation symbols ``#0 #1 ...`` follow the last real token and are no outputs of a model.

Units: ``bpe`` pieces carry the word boundary as sentencepiece's word-initial ``▁``. ``char`` puts
``▁`` as a token of its own before every word: each word is then spelled without regard to its
neighbours, so the lexicon graph holds exactly the training targets, and letters are shared between
word starts and word insides, which small corpora need. ``phone`` targets are the first
pronunciation of each word. Words cannot be read off phones, so decoding phones greedily gives
phones (scored as phone errors against :meth:`Lang.phones_of_text`); words need HL or HLG.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

import sentencepiece

from lmu_asr.errors import DocumentError, LangError
from lmu_asr.files import read_json, sha256_file
from lmu_asr.lang.lexicon import Entry, Pronunciation, read_lines

BLANK = "<blk>"
EPSILON = "<eps>"
BOUNDARY = "▁"
BOS, EOS = "<s>", "</s>"
CONTENT_FILES = (
    "tokens.txt",
    "words.txt",
    "lexicon.txt",
    "lexicon_disambig.txt",
    "L.fst",
    "L_disambig.fst",
    "bpe.model",
)


def ctc_min_frames(ids: Sequence[int]) -> int:
    """Least number of output frames that can carry ``ids`` under CTC: tokens + adjacent repeats."""
    return len(ids) + sum(a == b for a, b in itertools.pairwise(ids))


class Lang:
    """Tokens, words, lexicon and tokenizer of one lang directory; see :meth:`load`.

    Attributes:
        dir: the directory.
        unit: ``char``, ``bpe`` or ``phone``.
        tokens: real tokens, the index is the id; ``tokens[0]`` is the blank.
        disambig_tokens: ``#0 #1 ...`` with ids from ``len(tokens)`` on.
        words: every symbol of ``words.txt``, the index is the id (``<eps>`` 0; at the end ``#0``,
            ``<s>``, ``</s>``).
        lexicon: ``(word, tokens)`` in file order, several entries for a word where it has several
            pronunciations.
        fingerprint: SHA-256 over all content files.
    """

    blank_id = 0

    def __init__(
        self,
        directory: Path,
        unit: str,
        tokens: list[str],
        words: list[str],
        lexicon: list[Entry],
        bpe_model: bytes | None = None,
        fingerprint: str = "",
    ) -> None:
        self.dir = directory
        self.unit = unit
        real = [token for token in tokens if not _is_disambig(token)]
        self.tokens = real
        self.disambig_tokens = tokens[len(real) :]
        self.words = words
        self.lexicon = lexicon
        self.fingerprint = fingerprint
        self.token_ids = {token: index for index, token in enumerate(tokens)}
        self.word_ids = {word: index for index, word in enumerate(words)}
        self._model = bpe_model

    @classmethod
    def load(cls, directory: str | Path) -> Lang:
        """Read a lang directory and check its content against the fingerprint in ``lang.json``.

        Raises:
            LangError: missing, half-written or changed files, or broken lines in them.
        """
        directory = Path(directory)
        info = read_info(directory)
        found = content_fingerprint(directory, info["unit"])
        if found != info["fingerprint"]:
            raise LangError(
                f"{directory}: content {found[:12]} is not what lang.json says, "
                f"{info['fingerprint'][:12]}: a file was changed or only partly written; "
                "run the lang stage again with --force"
            )
        bpe = (directory / "bpe.model").read_bytes() if info["unit"] == "bpe" else None
        return cls(
            directory,
            info["unit"],
            read_symbols(directory / "tokens.txt"),
            read_symbols(directory / "words.txt"),
            read_lexicon(directory / "lexicon.txt"),
            bpe,
            found,
        )

    @property
    def vocab_size(self) -> int:
        """Outputs of a model: blank and real tokens, without disambiguation symbols."""
        return len(self.tokens)

    @property
    def disambig_ids(self) -> list[int]:
        """Token ids of ``#0 #1 ...``."""
        return list(range(len(self.tokens), len(self.tokens) + len(self.disambig_tokens)))

    @property
    def word_disambig_id(self) -> int:
        """Word id of ``#0``, the symbol on the grammar's back-off arcs."""
        return self.word_ids["#0"]

    @functools.cached_property
    def pronunciations(self) -> dict[str, list[Pronunciation]]:
        """Every word's token sequences, in file order."""
        table: dict[str, list[Pronunciation]] = {}
        for word, tokens in self.lexicon:
            table.setdefault(word, []).append(tokens)
        return table

    def target_spelling(
        self, words: Set[str], every_pronunciation: bool = False
    ) -> list[tuple[str, list[Pronunciation]]] | str:
        """Return what decides how a text of ``words`` becomes tokens, besides the tokens themselves.

        For phones the first pronunciation of each word, or all; for BPE the sentencepiece model in
        hexadecimal; nothing for characters.
        """
        if self.unit != "phone":
            return (self._model or b"").hex()
        last = None if every_pronunciation else 1
        return [(w, prons[:last]) for w in sorted(words) if (prons := self.pronunciations.get(w))]

    def limited_to(self, words: Set[str]) -> Lang:
        """Return the lang directory with only the lexicon entries of ``words``; tokens and ids stay."""
        tokens = [*self.tokens, *self.disambig_tokens]
        lexicon = [entry for entry in self.lexicon if entry[0] in words]
        return Lang(self.dir, self.unit, tokens, self.words, lexicon, self._model, self.fingerprint)

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self._model)

    @functools.cached_property
    def _spelled(self) -> dict[str, list[int]]:
        return {}

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, word by word (the first pronunciation for phones).

        Raises:
            LangError: a symbol outside the tokens, or for phones a word outside the lexicon.
        """
        ids: list[int] = []
        for word in text.split():
            if word not in self._spelled:
                self._spelled[word] = self._encode_word(word)
            ids += self._spelled[word]
        return ids

    def _encode_word(self, word: str) -> list[int]:
        if self.unit == "phone":
            if word not in self.pronunciations:
                raise LangError(f"word {word!r} has no pronunciation in {self.dir}/lexicon.txt")
            return [self.token_ids[token] for token in self.pronunciations[word][0]]
        if BOUNDARY in word:
            raise LangError(f"symbol {BOUNDARY!r} in {word!r} is reserved for word boundaries")
        if self.unit == "bpe":
            ids = self._processor.encode(word)
            # id 0, our blank, is sentencepiece's unknown
            if self.blank_id in ids:
                raise LangError(f"symbol {self._unknown(word)!r} in {word!r} has no token")
            return list(ids)
        unknown = [symbol for symbol in word if symbol not in self.token_ids]
        if unknown:
            raise LangError(
                f"symbol {unknown[0]!r} in {word!r} has no token in {self.dir}/tokens.txt"
            )
        return [self.token_ids[symbol] for symbol in (BOUNDARY, *word)]

    def _unknown(self, word: str) -> str:
        missing = [symbol for symbol in word if self.blank_id in self._processor.encode(symbol)]
        return missing[0] if missing else word

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words that ``ids`` spell, or for phones the phones with spaces between.

        Raises:
            LangError: the blank, a disambiguation symbol, or an id outside the tokens.
        """
        pieces = self._symbols(ids)
        if self.unit == "phone":
            return " ".join(pieces)
        return " ".join("".join(pieces).replace(BOUNDARY, " ").split())

    def token_text(self, ids: Iterable[int]) -> str:
        """Return the tokens of ``ids`` with spaces between."""
        return " ".join(self._symbols(ids))

    def phones_of_text(self, text: str) -> str:
        """Return the tokens of ``text`` with spaces between: a reference for phone errors."""
        return self.token_text(self.encode(text))

    def _symbols(self, ids: Iterable[int]) -> list[str]:
        pieces = []
        for index in ids:
            if not 0 < index < len(self.tokens):
                raise LangError(f"token id {index} is not between 1 and {len(self.tokens) - 1}")
            pieces.append(self.tokens[index])
        return pieces


def _is_disambig(token: str) -> bool:
    return len(token) > 1 and token[0] == "#" and token[1:].isdecimal()


def read_info(directory: Path) -> dict[str, Any]:
    """Read ``lang.json``.

    Raises:
        LangError: it is missing (the directory is not whole), or is not what prepare_lang writes.
    """
    path = directory / "lang.json"
    if not path.is_file():
        raise LangError(
            f"{path}: missing, so {directory} is no whole lang directory; run stage lang"
        )
    try:
        info = read_json(path)
    except DocumentError as error:
        raise LangError(str(error)) from error
    if not isinstance(info, dict) or info.get("unit") not in ("char", "bpe", "phone"):
        raise LangError(f"{path}: want an object with 'unit' one of char, bpe, phone")
    if not isinstance(info.get("fingerprint"), str):
        raise LangError(f"{path}: want an object with a text 'fingerprint'")
    return info


def content_fingerprint(directory: Path, unit: str) -> str:
    """SHA-256 over the unit and the names and bytes of all content files.

    Raises:
        LangError: a content file is missing.
    """
    digest = hashlib.sha256(unit.encode())
    for name in CONTENT_FILES:
        if name == "bpe.model" and unit != "bpe":
            continue
        path = directory / name
        if not path.is_file():
            raise LangError(f"{path}: missing; run the lang stage again with --force")
        digest.update(f"{name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def read_symbols(path: Path) -> list[str]:
    """Read a symbol table whose ids count up from 0.

    Raises:
        LangError: a line that is not ``symbol id``, or an id out of order.
    """
    symbols: list[str] = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split(" ")
        if len(fields) != 2 or fields[1] != str(number - 1):
            raise LangError(f"{path}:{number}: {line!r}: want 'symbol {number - 1}'")
        symbols.append(fields[0])
    return symbols


def read_lexicon(path: Path) -> list[Entry]:
    """Read ``lexicon.txt``: ``word token token ...`` with single spaces.

    Raises:
        LangError: a line without tokens or with empty fields.
    """
    lexicon: list[Entry] = []
    for number, line in enumerate(read_lines(path), 1):
        word, *tokens = line.split(" ")
        if not word or not tokens or "" in tokens:
            raise LangError(f"{path}:{number}: {line!r}: want 'word token token ...'")
        lexicon.append((word, tuple(tokens)))
    return lexicon
