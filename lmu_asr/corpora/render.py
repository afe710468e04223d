"""Render synthetic utterances to wav files, in worker processes that stay free of torch.

A worker (``python -m lmu_asr.corpora.render``) reads one job a line as JSON, forks a child that
speaks, adds room and noise and writes the file, and answers with one JSON line. The fork gives
each utterance the library's first state, so that its samples depend on its job alone.
"""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import wave
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter, resample_poly

from lmu_asr.corpora.espeak import Espeak, Voice
from lmu_asr.errors import DataError, LmuAsrError
from lmu_asr.files import atomic_write_bytes

SAMPLE_RATE = 16000
THREAD_LIMITS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
Signal = NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """One utterance to render: its text, its voice, the seed of its room and noise, its file."""

    text: str
    voice: Voice
    seed: tuple[int, ...]
    path: str


class Renderer:
    """A worker process that renders one job after the other."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "lmu_asr.corpora.render"]
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **THREAD_LIMITS, "PYTHONPATH": paths},
        )

    def render(self, job: Job) -> None:
        """Render one job.

        Raises:
            DataError: the utterance could not be made; nothing was left at its path.
            OSError: the file could not be written, as on a full disk; likewise.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise DataError("the synthesis process has no pipes")
        try:
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise DataError(f"{job.path}: the synthesis process ended; run again to resume")
        error = json.loads(answer)
        if error["errno"]:
            raise OSError(error["errno"], os.strerror(error["errno"]), job.path)
        if error["message"]:
            raise DataError(f"{job.path}: {error['message']}")

    def close(self) -> None:
        """End the worker process."""
        self._process.communicate()


def add_room(speech: Signal, rng: np.random.Generator) -> Signal:
    """Convolve with a synthetic room: a direct path and an exponentially decaying noise tail.

    Reverberation time 0.1 to 0.35 s, direct-to-reverberant ratio 8 to 20 dB.
    """
    reverberation_time = rng.uniform(0.1, 0.35)
    ratio_db = rng.uniform(8.0, 20.0)
    length = int(reverberation_time * SAMPLE_RATE)
    times = np.arange(length) / SAMPLE_RATE
    tail = rng.standard_normal(length) * 10.0 ** (-3.0 * times / reverberation_time)
    tail *= 10.0 ** (-ratio_db / 20.0) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return np.asarray(fftconvolve(speech, tail)[: len(speech)])


def add_noise(speech: Signal, rng: np.random.Generator) -> Signal:
    """Add stationary noise between white and brown at 15 to 30 dB below the speech."""
    snr_db = rng.uniform(15.0, 30.0)
    colour = rng.uniform(0.0, 0.95)
    noise = lfilter([1.0], [1.0, -colour], rng.standard_normal(len(speech)))
    gain = np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10.0 ** (-snr_db / 20.0)
    return np.asarray(speech + gain * noise)


def degrade(speech: NDArray[np.int16], sample_rate: int, seed: tuple[int, ...]) -> bytes:
    """Return clean samples as a wav file at 16 kHz, in a room, with noise and a random level."""
    rng = np.random.default_rng(seed)
    samples = resample_poly(speech.astype(np.float64) / 32768.0, SAMPLE_RATE, sample_rate)
    before, after = rng.integers(SAMPLE_RATE // 20, SAMPLE_RATE // 5, size=2)
    samples = add_noise(add_room(np.pad(samples, (before, after)), rng), rng)
    level = 10.0 ** (rng.uniform(-32.0, -20.0) / 20.0)
    samples *= min(level / np.sqrt(np.mean(samples**2)), 0.99 / np.max(np.abs(samples)))
    return wav_bytes(np.round(samples * 32767.0).astype("<i2"))


def wav_bytes(samples: NDArray[np.int16], sample_rate: int = SAMPLE_RATE) -> bytes:
    """Return 16-bit mono samples as a wav file."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(samples.tobytes())
    return stream.getvalue()


def _render_in_child(espeak: Espeak, job: Job) -> dict[str, Any]:
    """Render in a forked process; return its error, empty and 0 when the file stands."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        message, number, status = "", 0, 0
        try:
            speech = espeak.speak(job.text, job.voice)
            atomic_write_bytes(job.path, degrade(speech, espeak.sample_rate, job.seed))
        except LmuAsrError as error:
            message, status = str(error), 1
        except OSError as error:
            message, number, status = str(error), error.errno or errno.EIO, 1
        os.write(writer, json.dumps({"message": message, "errno": number}).encode())
        # not sys.exit: the child must not flush the parent's buffers nor run its exit handlers
        os._exit(status)
    # as long as this process holds the writing end, reading comes to no end
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    failure: dict[str, Any] = {"message": f"synthesis ended with status {status}", "errno": 0}
    return dict(json.loads(answer)) if answer else failure


def main() -> None:
    """Serve jobs from standard input until it ends."""
    espeak = Espeak()
    for line in sys.stdin:
        values = json.loads(line)
        voice = Voice(**values.pop("voice"))
        job = Job(values["text"], voice, tuple(values["seed"]), values["path"])
        sys.stdout.write(json.dumps(_render_in_child(espeak, job)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
