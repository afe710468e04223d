"""The mini corpus: unseen voices, determinism, resuming; synthesis, rooms and noise."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora import get_corpus
from lmu_asr.corpora.espeak import Voice
from lmu_asr.corpora.grammar import sentence, vocabulary
from lmu_asr.corpora.mini import VARIANTS, speakers
from lmu_asr.corpora.render import SAMPLE_RATE, Job, Renderer, add_noise, add_room
from lmu_asr.errors import DataError
from tests.data.speech import tree_bytes

ROOT = Path(__file__).resolve().parents[2]
CONFIG = CorpusConfig(speakers=3, minutes=0.5)
VOICE = Voice("en-us+klatt", 170, 50, 50)  # a voice with noise in it, which the library draws


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus, undisturbed."""
    target = tmp_path_factory.mktemp("mini")
    get_corpus("mini").download(CONFIG, target, 1)
    return target


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 200), st.integers(0, 9))
def test_dev_and_test_voices_are_unseen(count, seed):
    made = speakers(count, seed)
    assert len(made) == count and len({s.id for s in made}) == count
    variants = {split: set() for split in VARIANTS}
    for speaker in made:
        variants[speaker.split].add(speaker.voice.name.split("+")[1])
    assert all(variants.values())
    assert not variants["train"] & (variants["dev"] | variants["test"])
    assert not variants["dev"] & variants["test"]
    assert made == speakers(count, seed)


def test_default_voices_are_all_different():
    assert len({s.voice.name for s in speakers(40, 42)}) == 40


def test_grammar():
    words = vocabulary()
    assert 110 <= len(words) <= 135
    rng = np.random.default_rng(5)
    for _ in range(300):
        text = sentence(rng).split()
        assert 4 <= len(text) <= 12 and set(text) <= set(words)


def test_files(corpus):
    splits = get_corpus("mini").manifests(CONFIG, corpus)
    for split, part in splits.items():
        ids = [s.id for s in part.supervisions]
        assert ids and ids == [r.id for r in part.recordings] and part.problems == {}
        assert all(i.startswith(split) for i in ids)
        for recording in part.recordings:
            info = soundfile.info(recording.sources[0].source)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert 1.0 < recording.duration < 6.0
    seconds = sum(r.duration for part in splits.values() for r in part.recordings)
    assert 25.0 < seconds < 45.0


def test_second_call_repairs_and_changes_nothing(corpus, tmp_path, caplog):
    target = tmp_path / "copy"
    shutil.copytree(corpus, target)
    wavs = sorted(target.rglob("*.wav"))
    wavs[0].unlink()
    wavs[1].write_bytes(wavs[1].read_bytes()[:500])
    (wavs[2].parent / f".{wavs[2].name}.abc.tmp.wav").write_bytes(b"half")
    get_corpus("mini").download(CONFIG, target, 1)
    assert tree_bytes(target) == tree_bytes(corpus)
    assert f"{wavs[1]}: not the file that was made" in caplog.text


def test_other_options_replace_the_corpus(corpus, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(corpus, target)
    get_corpus("mini").download(CONFIG, target, 2)
    before, after = tree_bytes(corpus), tree_bytes(target)
    shared = [n for n in before if n.endswith(".wav") and before[n] == after.get(n)]
    assert shared == []
    sums = after["SHA256SUMS"].decode().splitlines()
    assert len(sums) == len([n for n in after if n.endswith(".wav")])


SCRIPT = """
import sys, time
from pathlib import Path
from lmu_asr.config import CorpusConfig
from lmu_asr.corpora import get_corpus
from lmu_asr.corpora.render import Renderer
render, target, most = Renderer.render, Path(sys.argv[1]), int(sys.argv[2])
def held(self, job):
    while len(list(target.rglob("[a-z]*.wav"))) >= most:
        time.sleep(0.01)  # until it is killed
    render(self, job)
Renderer.render = held
get_corpus("mini").download(CorpusConfig(speakers=3, minutes=0.5), Path(sys.argv[1]), 1)
"""


@pytest.mark.parametrize("files", [0, 4])
def test_killed_run_goes_on_to_the_same_bytes(corpus, tmp_path, files):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(files + 2)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 300.0
    while len(list(tmp_path.rglob("[a-z]*.wav"))) < files or not any(tmp_path.rglob("*.txt")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "SHA256SUMS").exists()
    get_corpus("mini").download(CONFIG, tmp_path, 1)
    assert tree_bytes(tmp_path) == tree_bytes(corpus)


def test_utterance_does_not_depend_on_what_was_spoken_before(tmp_path):
    jobs = [
        Job(text, VOICE, (1, i), str(tmp_path / f"{i}.wav"))
        for i, text in enumerate(["turn on the lights", "call nine one one", "open the door"])
    ]
    made = []
    for order in (jobs, jobs[::-1]):
        renderer = Renderer()
        for job in order:
            renderer.render(job)
        renderer.close()
        made.append([Path(job.path).read_bytes() for job in jobs])
    assert made[0] == made[1]
    assert len(set(made[0])) == 3


def test_unknown_voice_leaves_nothing(tmp_path):
    renderer = Renderer()
    job = Job("open the door", Voice("en-xx", 170, 50, 50), (1,), str(tmp_path / "a.wav"))
    with pytest.raises(DataError, match=r"a.wav: espeak-ng has no voice 'en-xx'"):
        renderer.render(job)
    assert list(tmp_path.iterdir()) == []
    renderer._process.kill()
    with pytest.raises(DataError, match="run again to resume"):
        renderer.render(job)
    renderer.close()


def test_unwritable_place_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    renderer = Renderer()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        renderer.render(Job("open", VOICE, (1,), str(tmp_path / "file" / "a.wav")))
    renderer.close()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_noise_level(seed):
    rng = np.random.default_rng(seed)
    speech = np.sin(np.arange(SAMPLE_RATE) / 20.0)
    added = add_noise(speech, rng) - speech
    ratio = 10.0 * np.log10(np.mean(speech**2) / np.mean(added**2))
    assert 15.0 <= ratio <= 30.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_room_is_a_direct_path_and_a_weaker_tail(seed):
    impulse = np.zeros(SAMPLE_RATE)
    impulse[0] = 1.0
    response = add_room(impulse, np.random.default_rng(seed))
    assert response[0] == pytest.approx(1.0, abs=1e-9)
    ratio = -10.0 * np.log10(np.sum(response[1:] ** 2))
    assert 7.9 <= ratio <= 21.0
    assert np.abs(response[int(0.36 * SAMPLE_RATE) :]).max() < 1e-9


def test_voices_of_dev_and_test_have_human_vocal_tracts() -> None:
    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    for variant in (*VARIANTS["dev"], *VARIANTS["test"]):
        text = (folder / variant).read_text(errors="replace")
        factors = re.findall(r"^\s*formant\s+[12]\s+(\d+)", text, re.MULTILINE)
        assert all(75 <= int(factor) <= 137 for factor in factors), variant


SPEAKER = """
import hashlib, sys
from lmu_asr.corpora.espeak import Espeak, Voice
espeak = Espeak()
espeak._lib.espeak_ng_SetRandSeed(int(sys.argv[1]))  # as another start of the clock would
print(hashlib.sha256(espeak.speak("seven", Voice("en-us+f3", 170, 50, 50)).tobytes()).hexdigest())
"""


def test_samples_do_not_depend_on_the_clock() -> None:
    """Variant f3 breathes: noise that the library draws, from the clock if let."""
    made = {
        subprocess.check_output([sys.executable, "-c", SPEAKER, seed], cwd=ROOT, text=True)
        for seed in ("7", "8")
    }
    assert len(made) == 1
