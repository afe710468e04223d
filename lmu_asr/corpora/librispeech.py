"""LibriSpeech, and any directory in its layout.

The layout: ``<split>/<speaker>/<chapter>/<utterance>.{flac,wav,mp3,opus,ogg}`` with transcripts in
``<speaker>-<chapter>.trans.txt`` beside the audio, one ``<utterance> <text>`` a line. A split is a
directory by that name. Panayotov et al. 2015, https://www.openslr.org/12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.data.audio import recording_from_file
from lmu_asr.errors import DataError
from lmu_asr.progress import progress

AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".opus", ".ogg")


class LibriSpeech:
    """LibriSpeech in the user's own copy, named by ``corpus.source``."""

    name = "librispeech"
    license_note = "LibriSpeech: CC BY 4.0, https://www.openslr.org/12"

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Check that ``corpus.source`` is there: this corpus is read where it lies."""
        if not config.source:
            raise DataError(
                "corpus.source is empty: name a directory in LibriSpeech layout with "
                "--set corpus.source=DIR"
            )

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the splits that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        return read_splits(config, source)

    def normalize(self, text: str) -> str:
        """Lower case, apostrophes kept, other punctuation dropped, single spaces."""
        return normalize_english(text)


def normalize_english(text: str) -> str:
    """Lower case, typographic apostrophes made plain, other punctuation dropped, single spaces."""
    text = re.sub(r"[’‘`´]", "'", text.lower())
    text = re.sub(r"[^\w' ]|_", " ", text)
    return " ".join(
        word for word in (w.strip("'") if w == "'" else w for w in text.split()) if word
    )


def read_splits(config: CorpusConfig, source: Path) -> dict[str, Manifests]:
    """Read every split that ``config`` names from its directory under ``source``.

    Raises:
        DataError: ``source`` or a split is missing; the message names the directories found.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such directory (corpus.source)")
    splits = {}
    for split in dict.fromkeys([config.train, config.dev, *config.test]):
        if not (source / split).is_dir():
            found = ", ".join(sorted(p.name for p in source.iterdir() if p.is_dir())) or "none"
            raise DataError(f"{source}: no split '{split}'; directories found: {found}")
        splits[split] = read_layout(source / split)
    return splits


def read_layout(split: Path) -> Manifests:
    """Read one split directory: every ``*.trans.txt`` under it and the audio beside each.

    An utterance whose audio is missing or unreadable keeps its supervision, and the reason is
    in ``problems``, for validation to list.

    Raises:
        DataError: no transcripts, or a transcript that is not UTF-8.
    """
    recordings: list[Recording] = []
    supervisions: list[SupervisionSegment] = []
    problems: dict[str, str] = {}
    transcripts = sorted(split.rglob("*.trans.txt"))
    if not transcripts:
        raise DataError(f"{split}: no *.trans.txt in it or below")
    for transcript in progress(transcripts, f"reading {split.name}", unit="file"):
        speaker = transcript.relative_to(split).parts[0]
        audio = {p.stem: p for p in transcript.parent.iterdir() if p.suffix in AUDIO_SUFFIXES}
        for utterance, text in _read_transcript(transcript):
            path = audio.get(utterance, transcript.parent / f"{utterance}.*")
            duration = 0.0
            try:
                recordings.append(recording_from_file(path, utterance))
                duration = recordings[-1].duration
            except DataError as error:
                problems[utterance] = str(error)
            supervisions.append(
                SupervisionSegment(utterance, utterance, 0.0, duration, text=text, speaker=speaker)
            )
    return Manifests(
        RecordingSet.from_recordings(recordings),
        SupervisionSet.from_segments(supervisions),
        problems,
    )


def _read_transcript(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    for line in lines:
        utterance, _, text = line.strip().partition(" ")
        if utterance:
            yield utterance, text.strip()


CORPUS = LibriSpeech()
