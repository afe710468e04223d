"""The mini corpus: synthetic English made offline by espeak-ng, the rehearsal for real corpora.

Some 40 speakers (accent, voice variant, rate, pitch) say commands, dates, times and digits, in
mild noise and reverberation. Variants are split first: the voices of dev and test are never heard
in training. Every file depends on the seed and on its own place in the corpus alone, so that a
killed run goes on where it stood and ends in the same bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.espeak import Voice
from lmu_asr.corpora.grammar import sentence
from lmu_asr.corpora.librispeech import read_splits
from lmu_asr.corpora.render import Job, Renderer
from lmu_asr.corpora.text import normalize_english
from lmu_asr.errors import DocumentError
from lmu_asr.files import atomic_write_text, read_json, sha256_file, write_json
from lmu_asr.progress import progress

ACCENTS = (
    *("en-us", "en", "en-gb-x-rp", "en-gb-scotland"),
    *("en-us-nyc", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd"),
)
# Formants 1 and 2 of dev and test voices lie within 0.75 to 1.37 of espeak's own, the range between
# vocal tracts of men, women and children (Peterson and Barney 1952).
VARIANTS = {
    "train": (
        *("m1", "f1", "m2", "f3", "m3", "f4", "m5", "linda", "m7", "aunty", "m8", "Annie"),
        *("klatt", "Andrea", "Andy", "steph", "adam", "f2", "boris", "grandma", "Mike", "edward"),
        *("Alex", "benjamin", "klatt3", "ian", "victor", "max", "john", "Lee", "Denis"),
        *("edward2", "grandpa", "announcer", "david"),
    ),
    "dev": ("m4", "belinda", "rob", "klatt4", "sandro", "robert"),
    "test": ("m6", "f5", "Michael", "anika", "klatt2", "michel"),
}
SHARES = {"dev": 0.075, "test": 0.1}
PAUSE_SECONDS, CHARACTERS_A_WORD = 0.44, 6.9  # measured on this grammar
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Speaker:
    """One synthetic speaker of one split."""

    id: str
    split: str
    voice: Voice


class Mini:
    """Synthetic commands, dates and digits (about an hour to train)."""

    name = "mini"
    language = "en"
    license_note = "mini: synthetic speech made on this machine by espeak-ng (GPL 3 or later)"

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Make the corpus in ``target``; whole files of an earlier run are kept."""
        plan = {"corpus": "mini", "speakers": config.speakers, "minutes": config.minutes}
        _discard_other_plan(target, {**plan, "seed": seed, "version": 2})
        jobs: list[Job] = []
        for index, speaker in enumerate(speakers(config.speakers, seed)):
            jobs += _jobs(speaker, index, config, target, seed)
        _discard_changed(target)
        missing = [job for job in jobs if not Path(job.path).exists()]
        logging.info("mini: %d of %d utterances to make", len(missing), len(jobs))
        _render_all(missing, min(os.cpu_count() or 1, 16))
        _write_sums(target, [job.path for job in jobs])

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the splits that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        return read_splits(config, source)

    def normalize(self, text: str) -> str:
        """Lower case, apostrophes kept, other punctuation dropped."""
        return normalize_english(text)


def speakers(count: int, seed: int) -> list[Speaker]:
    """Return ``count`` speakers in a fixed order, at least one in each split."""
    numbers = {split: max(1, round(share * count)) for split, share in SHARES.items()}
    numbers = {"train": count - sum(numbers.values()), **numbers}
    return [_speaker(split, i, seed) for split, n in numbers.items() for i in range(n)]


def _speaker(split: str, index: int, seed: int) -> Speaker:
    rng = np.random.default_rng([seed, list(VARIANTS).index(split), index])
    variants = VARIANTS[split]
    accent = ACCENTS[(index + index // len(variants)) % len(ACCENTS)]
    voice = Voice(
        name=f"{accent}+{variants[index % len(variants)]}",
        rate=int(rng.integers(145, 190)),
        pitch=int(rng.integers(35, 65)),
        range=int(rng.integers(35, 70)),
    )
    return Speaker(f"{split}{index:03d}", split, voice)


def _jobs(
    speaker: Speaker, index: int, config: CorpusConfig, target: Path, seed: int
) -> Iterator[Job]:
    """Yield the utterances of one speaker and write their transcripts."""
    folder = target / speaker.split / speaker.id
    lines = []
    texts = _sentences(speaker, 60.0 * config.minutes / config.speakers, [seed, 7, index])
    for number, text in enumerate(texts):
        utterance = f"{speaker.id}-{number:04d}"
        lines.append(f"{utterance} {text}\n")
        yield Job(text, speaker.voice, (seed, index, number), str(folder / f"{utterance}.wav"))
    path = folder / f"{speaker.id}.trans.txt"
    if not path.exists() or path.read_text(encoding="utf-8") != "".join(lines):
        atomic_write_text(path, "".join(lines))


def _sentences(speaker: Speaker, seconds: float, seed: list[int]) -> Iterator[str]:
    """Yield sentences until their estimated durations reach ``seconds``."""
    rng = np.random.default_rng(seed)
    while seconds > 0.0:
        text = sentence(rng)
        yield text
        seconds -= PAUSE_SECONDS + 60.0 * len(text) / (CHARACTERS_A_WORD * speaker.voice.rate)


def _render_all(jobs: list[Job], workers: int) -> None:
    """Render the jobs over worker processes; the files do not depend on their number."""
    renderers = [Renderer() for _ in range(min(workers, len(jobs)))]
    free: queue.SimpleQueue[Renderer] = queue.SimpleQueue()
    for renderer in renderers:
        free.put(renderer)

    def render(job: Job) -> None:
        renderer = free.get()
        try:
            renderer.render(job)
        finally:
            free.put(renderer)

    try:
        with ThreadPoolExecutor(max(1, len(renderers))) as pool:
            for _ in progress(pool.map(render, jobs), "synthesis", total=len(jobs), unit="utt"):
                pass
    finally:
        for renderer in renderers:
            renderer.close()


def _discard_other_plan(target: Path, plan: dict[str, object]) -> None:
    """Remove what a killed run left, and the splits of a corpus made with other options."""
    path = target / "corpus.json"
    for leftover in target.rglob(".*.tmp*"):
        leftover.unlink(missing_ok=True)
    with contextlib.suppress(OSError, DocumentError):  # a damaged plan is another plan
        if read_json(path) == plan:
            return
    for split in VARIANTS:
        shutil.rmtree(target / split, ignore_errors=True)
    (target / SUMS).unlink(missing_ok=True)
    write_json(path, plan)


def _discard_changed(target: Path) -> None:
    """Remove audio that differs from the checksums of the finished corpus."""
    path = target / SUMS
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        audio = target / name
        if audio.exists() and sha256_file(audio) != digest:
            logging.warning("%s: not the file that was made; making it again", audio)
            audio.unlink()


def _write_sums(target: Path, paths: list[str]) -> None:
    lines = [f"{sha256_file(path)}  {Path(path).relative_to(target)}\n" for path in paths]
    text = "".join(lines)
    path = target / SUMS
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        atomic_write_text(path, text)


CORPUS = Mini()
