"""GigaSpeech: 10,000 hours of audiobooks, podcasts and YouTube. Chen et al. 2021.

``GigaSpeech.json`` lists the audio (Opus) and its segments, each with the subsets it belongs to:
``{XS} {S} {M} {L} {XL} {DEV} {TEST}``. Access is granted through a form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.splits import join_splits
from lmu_asr.corpora.text import normalize_english
from lmu_asr.data.manifests import Utterance, from_utterances, segment_seconds
from lmu_asr.errors import DataError

BLOCK, LARGEST_ITEM = 1 << 22, 1 << 27  # characters
# a tuple, since the empty text at the end of a block is "in" every string
SEPARATORS = tuple(", \t\r\n")
GARBAGE = re.compile(r"<(SIL|MUSIC|NOISE|OTHER)>")  # the whole utterance is of no use
PUNCTUATION = re.compile(r"<(COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT|UNK)>")
# fillers that the publisher's scoring leaves out
FILLERS = frozenset(
    ["uh", "uhh", "um", "eh", "mm", "hm", "ah", "huh", "ha", "er", "oof", "hee", "ach", "eee", "ew"]
)


class GigaSpeech:
    """The splits are subsets: XS, S, M, L, XL, DEV, TEST."""

    name = "gigaspeech"
    language = "en"
    license_note = (
        "GigaSpeech: for research, by agreement, https://github.com/SpeechColab/GigaSpeech"
    )

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Say how to have it.

        Raises:
            DataError: always.
        """
        raise DataError(
            "GigaSpeech asks for an agreement first: fill in the form named at "
            "https://github.com/SpeechColab/GigaSpeech, download with the password you are sent, "
            "and name the directory that holds GigaSpeech.json with --set corpus.source=DIR"
        )

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the subsets that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        index = source / "GigaSpeech.json"
        if not index.is_file():
            raise DataError(f"{index}: no such file (corpus.source)")
        return join_splits(config, lambda part: from_utterances(_read(index, part), part))

    def normalize(self, text: str) -> str:
        """Punctuation tags, unknown words and fillers dropped, garbage emptied, lower case, hyphens split."""
        if GARBAGE.search(text):
            return ""
        words = normalize_english(PUNCTUATION.sub(" ", text)).split()
        return " ".join(word for word in words if word not in FILLERS)


def _read(index: Path, subset: str) -> Iterator[Utterance]:
    """Yield the segments of a subset, garbage left out: it is no speech."""
    tag = f"{{{subset.upper()}}}"
    for number, audio in enumerate(_audios(index), 1):
        where = f"{index}: item {number} of 'audios'"
        try:
            if tag in audio["subsets"]:
                yield from _segments(index, audio, tag, where)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: not as GigaSpeech has them: {error!r:.80}") from error


def _segments(index: Path, audio: dict[str, Any], tag: str, where: str) -> Iterator[Utterance]:
    for segment in audio["segments"]:
        text = segment["text_tn"]
        if tag in segment["subsets"] and not GARBAGE.search(text):
            start, end = segment_seconds(segment["begin_time"], segment["end_time"], where)
            path = index.parent / audio["path"]
            yield Utterance(segment["sid"], path, text, audio["aid"], start, end, 0)


def _audios(index: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of the list ``audios`` one by one: the whole is too large for memory."""
    decoder = json.JSONDecoder()
    try:
        with open(index, encoding="utf-8") as stream:
            text = stream.read(BLOCK)
            start = re.search(r'"audios"\s*:\s*\[', text)
            if start is None:
                raise DataError(f"{index}: no list 'audios' in its first {BLOCK} characters")
            yield from _items(index, stream, text[start.end() :], decoder)
    except UnicodeDecodeError as error:
        raise DataError(f"{index}: not UTF-8 ({error.reason})") from error
    except RecursionError as error:
        raise DataError(f"{index}: nested too deeply") from error


def _items(
    index: Path, stream: IO[str], text: str, decoder: json.JSONDecoder
) -> Iterator[dict[str, Any]]:
    """Yield the items of a list whose text begins after its bracket."""
    position = 0
    while True:
        while text[position : position + 1] in SEPARATORS:
            position += 1
        if text.startswith("]", position):
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except ValueError as error:
            more = stream.read(BLOCK)
            if not more or len(text) - position > LARGEST_ITEM:
                raise DataError(f"{index}: cut short or not JSON: {error}") from error
            text, position = text[position:] + more, 0
            continue
        yield item


CORPUS = GigaSpeech()
