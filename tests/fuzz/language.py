"""Lexica, ARPA files, text of a language model, and audio files."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from lmu_asr.config import Config, LmConfig
from lmu_asr.data.audio.reader import read_audio, recording_from_file
from lmu_asr.errors import DataError
from lmu_asr.lang.pronunciations import read_pronunciations
from lmu_asr.lang.user_arpa import read_user_arpa
from lmu_asr.stages.context import Context
from lmu_asr.stages.lang import lm_sentences
from tests.fuzz.harness import Target

LEXICON = """;;; a comment
one W AH1 N
two T UW1
two(2) T UW0
three TH R IY1 # another
हिन्दी h i n d i
it's IH1 T S
"""
ARPA = """made by hand

\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.0\t<s>\t-0.3
-0.9\t</s>
-0.8\tone\t-0.2
-0.7\ttwo\t-0.1
-2.5\t<unk>

\\2-grams:
-0.3\t<s> one\t-0.1
-0.4\tone two\t0
-0.5\ttwo </s>

\\3-grams:
-0.2\t<s> one two

\\end\\
"""


def lexicon(name: str = "lexicon.txt", text: str = LEXICON) -> Target:
    """Pronunciations: every line that is one is kept."""

    def read(folder: Path) -> str:
        found = read_pronunciations(folder / name)
        for word, entries in found.items():
            assert word.split() == [word] and entries, repr(word)
            assert all(phone.split() == [phone] for entry in entries for phone in entry)
        return "kept"

    return Target(name, {name: text.encode()}, read)


def lexiconp() -> Target:
    """Kaldi's lexicon with probabilities."""
    lines = (f"{w} {0.5 + n / 10:.1f} a b\n" for n, w in enumerate(("one", "two", "three")))
    return lexicon("lexiconp.txt", "".join(lines))


def arpa() -> Target:
    """An ARPA file that the user gives."""

    def read(folder: Path) -> str:
        found = read_user_arpa(folder / "lm.arpa", {"one", "two"})
        found.new_words({"one", "two"})
        assert all(np.isfinite(level.logprob).all() for level in found.model.levels)
        return "model"

    return Target("arpa", {"lm.arpa": ARPA.encode()}, read)


def arpa_packed() -> Target:
    """The same, compressed: it carries a sum."""

    def read(folder: Path) -> str:
        found = read_user_arpa(folder / "lm.arpa.gz", {"one", "two"})
        assert found.model.symbols == ["<s>", "</s>", "one", "two", "<unk>"]
        assert found.model.counts == [5, 3, 1]
        return "equal"

    return Target("arpa.gz", {"lm.arpa.gz": gzip.compress(ARPA.encode())}, read, text=False)


def lm_text() -> Target:
    """Sentences for the language model: not more than lines."""

    def read(folder: Path) -> str:
        path = folder / "lm.txt"
        config = replace(Config(), lm=replace(LmConfig(), text=str(path)))
        context = Context(config, folder, folder, "", nj=1)
        sentences = list(lm_sentences(context))
        assert len(sentences) <= path.read_bytes().count(b"\n") + 1
        assert all(s.encode() and len(s.splitlines()) == 1 for s in sentences)
        return "kept"

    text = "one two three\nit's a café\nещё раз\n[noise] हिन्दी में\n" * 2
    return Target("lm.text", {"lm.txt": text.encode()}, read)


def _audio(kind: str) -> Callable[[], Target]:
    """Audio of 0.25 s: refused, or as many samples as its header says."""

    def read(folder: Path) -> str:
        path = folder / f"a.{kind}"
        recording = recording_from_file(path, "a")
        assert 0 < recording.num_samples < 1 << 40 and recording.sampling_rate > 0
        try:
            samples, rate = read_audio(path)
        except DataError:
            return "refused in reading"
        assert rate == recording.sampling_rate and samples.shape[1] > 0
        return "read"

    samples = 0.1 * np.random.default_rng(1).standard_normal(2000)
    stream = io.BytesIO()
    soundfile.write(stream, samples, 8000, format=kind)
    return lambda: Target(kind, {f"a.{kind}": stream.getvalue()}, read, text=False)


TARGETS: dict[str, Callable[[], Target]] = {
    "lexicon": lexicon,
    "lexiconp": lexiconp,
    "arpa": arpa,
    "arpa.gz": arpa_packed,
    "lm.text": lm_text,
    "wav": _audio("wav"),
    "flac": _audio("flac"),
    "mp3": _audio("mp3"),
}
