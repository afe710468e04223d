"""Directories in LibriSpeech layout.

``<split>/<speaker>/<chapter>/<utterance>.{flac,wav,mp3,opus,ogg}``, with transcripts in
``*.trans.txt`` beside the audio, one ``<utterance> <text>`` a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmu_asr.data.manifests import Manifests, Utterance, from_utterances
from lmu_asr.errors import DataError

AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".opus", ".ogg")


def read_layout(split: Path) -> Manifests:
    """Read one split directory: every ``*.trans.txt`` under it and the audio beside each.

    An utterance whose audio is missing or unreadable keeps its supervision, and the reason is
    in ``problems``, for validation to list.

    Raises:
        DataError: no transcripts, or a transcript that is not UTF-8.
    """
    utterances = []
    transcripts = sorted(split.rglob("*.trans.txt"))
    if not transcripts:
        raise DataError(f"{split}: no *.trans.txt in it or below")
    for transcript in transcripts:
        speaker = transcript.relative_to(split).parts[0]
        audio = {p.stem: p for p in transcript.parent.iterdir() if p.suffix in AUDIO_SUFFIXES}
        for utterance, text in _read_transcript(transcript):
            path = audio.get(utterance, transcript.parent / f"{utterance}.*")
            utterances.append(Utterance(utterance, path, text, speaker))
    return from_utterances(utterances, split.name)


def _read_transcript(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    for line in lines:
        utterance, _, text = line.strip().partition(" ")
        if utterance:
            yield utterance, text.strip()
