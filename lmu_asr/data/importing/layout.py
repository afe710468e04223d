"""Directories in LibriSpeech layout.

``<split>/<speaker>/<chapter>/<utterance>.{flac,wav,mp3,...}``, with transcripts in
``*.trans.txt`` beside the audio, one ``<utterance> <text>`` a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lmu_asr.data.audio.reader import AUDIO_SUFFIXES, is_audio
from lmu_asr.data.manifests import Manifests, Utterance, from_utterances, say_untranscribed
from lmu_asr.errors import DataError
from lmu_asr.files import files_below, walk
from lmu_asr.text_lines import filled_lines

TRANSCRIPTS = "*.trans.txt"


def read_layout(split: Path) -> Manifests:
    """Read one split directory: every ``*.trans.txt`` under it and the audio beside each.

    An utterance whose audio is missing or unreadable keeps its supervision, and the reason is
    in ``problems``, for validation to list. Audio without a transcript is counted, and said.

    Raises:
        DataError: no transcripts, or a transcript that is not UTF-8.
    """
    transcripts = sorted(files_below(split, TRANSCRIPTS))
    if not transcripts:
        raise DataError(f"{split}: no {TRANSCRIPTS} in it or below")
    say_untranscribed(_untranscribed(split), split)
    found = from_utterances(_utterances(split, transcripts), split.name)
    return replace(found, files=())  # what no transcript names is said already


def _utterances(split: Path, transcripts: list[Path]) -> Iterator[Utterance]:
    for transcript in transcripts:
        folders = transcript.relative_to(split).parts[:-1]
        speaker = folders[0] if folders else ""
        audio = {p.stem: p for p in _audio_files(transcript.parent)}
        for utterance, text in _read_transcript(transcript):
            path = audio.get(utterance, transcript.parent / f"{utterance}.*")
            yield Utterance(utterance, path, text, speaker)


def _untranscribed(split: Path) -> Iterator[str]:
    """Yield the names of audio files that no transcript beside them has."""
    for folder, names in walk(split):
        audio = list(dict.fromkeys(Path(name).stem for name in names if is_audio(name)))
        texts = [folder / n for n in names if n.endswith(".trans.txt")] if audio else []
        named = {utterance for text in texts for utterance, _ in _read_transcript(text)}
        yield from (name for name in audio if name not in named)


def _audio_files(folder: Path) -> list[Path]:
    """Audio in a directory; of files with one stem, the kind last that AUDIO_SUFFIXES has first."""
    found = sorted(path for path in folder.iterdir() if is_audio(path))
    return sorted(found, key=lambda path: -AUDIO_SUFFIXES.index(path.suffix.lower()))


def _read_transcript(path: Path) -> Iterator[tuple[str, str]]:
    for _, line in filled_lines(path):
        utterance, *text = re.split("[ \t]+", line.strip(" \t\r"), maxsplit=1)
        if utterance:
            yield utterance, "".join(text)
