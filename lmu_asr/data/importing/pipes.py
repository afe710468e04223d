"""Audio that Kaldi's ``wav.scp`` names by a command (``utt flac -c -d -s a.flac |``), run once and kept.

What a command prints is kept as FLAC under a name made from the command. When stage 1 runs (its stamp
goes by content), a command runs again if it, or the size or time of a file that it names, has changed. A plain chain of programs is started without a shell; what needs
one (redirections, ``;``, ``$``, wildcards) is run by bash.

Shapes: C channels, S samples.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import soundfile
from lhotse import Recording
from numpy.typing import NDArray

from lmu_asr.config import CorpusConfig
from lmu_asr.data.audio.mono import INT16_SCALE, LARGEST_INT16_PEAK, LARGEST_PEAK, SCALED
from lmu_asr.data.audio.reader import read_audio, recording_from_file
from lmu_asr.data.importing.audio_paths import caller_dir
from lmu_asr.data.importing.scratch import Scratch
from lmu_asr.errors import DataError, is_surrogate, percent
from lmu_asr.files import atomic_path, fingerprint

T = TypeVar("T")
AHEAD = 4  # commands given out for each that runs
BLOCK = 1 << 24  # samples that are converted at once
LEAST_FREE = 16 << 20  # bytes; where fewer are free, the disk is at fault and no command
MOST_BYTES = 4 << 30  # that a command may print: what WAV can hold
FIRST_PAUSE, LAST_PAUSE = 0.001, 0.05  # seconds between looks at what runs
SHOWN = 200  # characters of a command and of what it says
NEEDS_SHELL = frozenset("&;<>()$`*?[]{}~#!\n")
IN_QUOTES = frozenset("$`")  # what a shell expands between double quotes


@dataclass(frozen=True)
class Pipes:
    """How commands are run and where what they print is kept.

    Attributes:
        folder: receives ``<two digits>/<hash of the command>.flac``.
        cwd: directory that commands run in.
        seconds: time limit of each.
        jobs: commands at once.
    """

    folder: Path
    cwd: Path
    seconds: float = 600.0
    jobs: int = 1

    def place(self, command: str) -> Path:
        """Return where the audio of a command is, or will be."""
        name = hashlib.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.flac"


def pipes_of(config: CorpusConfig) -> Pipes | None:
    """Return how commands are run, None where they are not allowed.

    They run in the directory that the user calls ``run.sh`` from, as Kaldi's tools do.
    """
    if not config.pipes:
        return None
    folder = Path(config.pipe_dir or "pipes")
    jobs = config.pipe_jobs or os.cpu_count() or 1
    return Pipes(folder.absolute(), caller_dir(), 60.0 * config.pipe_minutes, jobs)


def is_command(source: str) -> bool:
    """Whether a source of ``wav.scp`` is a command."""
    return source.endswith("|")


def piped(
    items: Iterable[T], command_of: Callable[[T], tuple[str, Path]], pipes: Pipes | None
) -> Generator[tuple[T, str], None, None]:
    """Yield items in their order, each when its command has run; close the iterator to end commands.

    Args:
        items: anything.
        command_of: its command, empty where there is none, and where its audio goes.
        pipes: how commands are run; None: there are none.

    Yields:
        The item, and why its command has no audio, or nothing.
    """
    if pipes is None:
        yield from ((item, "") for item in items)
        return
    runner = _Runner(pipes)
    coming: deque[tuple[T, Future[str] | None]] = deque()
    with ThreadPoolExecutor(pipes.jobs, "pipe") as pool:
        try:
            for item in items:
                command, path = command_of(item)
                future = pool.submit(runner.problem, command, path) if command else None
                coming.append((item, future))
                if len(coming) >= AHEAD * pipes.jobs:
                    yield _waited(*coming.popleft())
            while coming:
                yield _waited(*coming.popleft())
        finally:
            runner.stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
            runner.say()


def _waited(item: T, future: Future[str] | None) -> tuple[T, str]:
    return item, future.result() if future is not None else ""


def plain_chain(command: str) -> list[list[str]] | None:
    """Return the programs of ``a | b |`` with their arguments; None for what only a shell can run."""
    parts, quote, escaped = [""], "", False
    for character in command.strip().removesuffix("|"):
        if escaped:
            escaped = False
            if quote and character in IN_QUOTES:
                return None  # shlex would keep the backslash
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            if character == quote:
                quote = ""
            elif quote == '"' and character in IN_QUOTES:
                return None
        elif character in "'\"":
            quote = character
        elif character in NEEDS_SHELL:
            return None
        elif character == "|":
            parts.append("")
            continue
        parts[-1] += character
    if quote or escaped:
        return None
    chain = [shlex.split(part) for part in parts]
    is_plain = all(words and "=" not in words[0] for words in chain)
    return chain if is_plain else None


def command_inputs(command: str, cwd: Path) -> list[Path]:
    """Return the files that a command names: its arguments, or what follows ``=`` in them."""
    chain = plain_chain(command) or [_words(command)]
    words = itertools.chain.from_iterable(part[1:] for part in chain)
    named = itertools.chain.from_iterable((word, word.partition("=")[2]) for word in words)
    return [cwd / word for word in dict.fromkeys(named) if word and _is_file(cwd / word)]


def _words(command: str) -> list[str]:
    try:
        reader = shlex.shlex(command, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        return ["", *reader]
    except ValueError:  # quotes that do not end: bash will say so
        return ["", *command.split()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name
        return False


class _Runner:
    """Runs commands; counts those that need a shell."""

    def __init__(self, pipes: Pipes) -> None:
        self.pipes, self.stopping = pipes, threading.Event()
        self._scratch = Scratch(pipes.folder, ".run-")
        self._ran: dict[str, list[str]] = {}  # commands by what is to be said of them

    def problem(self, command: str, path: Path) -> str:
        """Make the audio of a command unless it is there; returns why it cannot be made, or nothing."""
        tag = self._tag(command)
        if _tag_of(path) == tag:
            return ""
        try:
            path.unlink(missing_ok=True)  # of an earlier state of its input
            self._run(command, path, tag)
        except DataError as error:
            if shutil.disk_usage(self.pipes.folder).free < LEAST_FREE:
                full = os.strerror(errno.ENOSPC)
                raise OSError(errno.ENOSPC, full, str(self.pipes.folder)) from error
            return f"command {error}: {_shown(command)}"
        return ""

    def say(self) -> None:
        """Log what was run."""
        for what, commands in self._ran.items():
            first = _shown(commands[0])
            logging.info("%s: %d (the first: %s)", what, len(commands), first)

    def _note(self, what: str, command: str) -> None:
        self._ran.setdefault(what, []).append(command)

    def _tag(self, command: str) -> str:
        """Hash of a command and of the size and time of each file that it names."""
        files = command_inputs(command, self.pipes.cwd)
        states = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        return f"lmu_asr {fingerprint([command, str(self.pipes.cwd), states])}"

    def _run(self, command: str, path: Path, tag: str) -> None:
        chain = plain_chain(command)
        if chain is None:
            self._note("commands that need a shell, run by bash", command)
            script = command.strip().removesuffix("|")
            # pipefail: otherwise the last program's success hides that one before it failed
            chain = [["bash", "-o", "pipefail", "-c", script]]
        self._note(f"commands run, what they print is kept in {self.pipes.folder}", command)
        with tempfile.TemporaryDirectory(dir=self._scratch.folder) as folder:
            printed = Path(folder, "printed")
            with _Chain(chain, self.pipes.cwd, printed) as running:
                running.wait(self.pipes.seconds, self.stopping)
            if note := _keep(printed, Path(folder), path, tag):
                self._note(note, command)


class _Chain:
    """Programs that hand their output on, each in a process group of its own, killed on leaving."""

    def __init__(self, chain: list[list[str]], cwd: Path, printed: Path) -> None:
        self._chain, self._cwd, self._printed = chain, cwd, printed
        self._errors = [printed.with_name(f"errors.{i}") for i in range(len(chain))]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Chain:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        source: int | IO[bytes] = subprocess.DEVNULL
        for words, errors in zip(self._chain, self._errors, strict=True):
            is_last = words is self._chain[-1]
            with contextlib.ExitStack() as stack:
                target = (
                    stack.enter_context(open(self._printed, "wb")) if is_last else subprocess.PIPE
                )
                said = stack.enter_context(open(errors, "wb"))
                if not isinstance(source, int):
                    stack.enter_context(source)  # the next program alone has it
                try:
                    process = subprocess.Popen(
                        words,
                        stdin=source,
                        stdout=target,
                        stderr=said,
                        cwd=self._cwd,
                        start_new_session=True,  # and so a process group of its own
                    )
                except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
                    raise DataError(_why_not_started(words[0], error)) from error
            self._processes.append(process)
            source = process.stdout or subprocess.DEVNULL

    def wait(self, seconds: float, stopping: threading.Event) -> None:
        """Return when all have ended with success.

        Raises:
            DataError: one failed, or took or printed too much, or all are to stop.
        """
        deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
        while not all(map(_has_ended, self._processes)):
            if stopping.is_set():
                raise DataError("was stopped")
            if time.monotonic() > deadline:
                raise DataError(f"ran for more than {seconds / 60:g} min (corpus.pipe_minutes)")
            if sum(p.stat().st_size for p in (self._printed, *self._errors)) > MOST_BYTES:
                raise DataError(f"printed more than {MOST_BYTES >> 30} GiB")
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
        self._end()
        for number, process in enumerate(self._processes):
            self._check(number, process.returncode)

    def _check(self, number: int, status: int) -> None:
        # who reads as much as it wants and leaves, such as head, ends the program before it
        ended_early = status in (-signal.SIGPIPE, 128 + signal.SIGPIPE)
        by_shell = self._chain[0][0] == "bash"
        if status == 0 or (ended_early and (by_shell or number < len(self._chain) - 1)):
            return
        said = _last_line(self._errors[number])
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        raise DataError(f"failed: {self._chain[number][0]}: {how}{', ' if said else ''}{said}")

    def _end(self) -> None:
        """Kill what still runs and take every status; until then no other process has these ids."""
        for process in self._processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdout:
                process.stdout.close()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, its status not taken: what it left running may be killed yet."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _why_not_started(name: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename == name:
        return f"failed: {name}: command not found; install it, or add its directory to PATH"
    return f"failed: {name}: {error}"


def _last_line(path: Path) -> str:
    """The last line that a program said on its standard error."""
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - 4096))
        text = stream.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _shown(lines[-1]) if lines else ""


def _shown(text: str) -> str:
    """A text of others on one line, without control characters."""
    shown = (percent(c) if is_surrogate(c) else " " if not c.isprintable() else c for c in text)
    text = "".join(shown)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _tag_of(path: Path) -> str:
    try:
        with soundfile.SoundFile(os.fsencode(path)) as stream:
            return str(stream.comment)
    except (soundfile.SoundFileError, OSError):
        return ""


def _keep(printed: Path, scratch: Path, path: Path, tag: str) -> str:
    """Convert what a command printed to FLAC at ``path``, which appears whole or not at all.

    16 bits where they hold every sample, else 24. Returns what is to be said of it, or nothing.
    """
    if printed.stat().st_size == 0:
        raise DataError("printed nothing")
    try:
        audio = recording_from_file(printed, "printed")
        bits, scale, note = _format(printed, audio)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(scratch / "kept.flac") as made:
            _write(made, printed, audio, bits, scale, tag)
    except DataError as error:
        raise DataError(f"printed no audio that can be kept: {_unnamed(error, printed)}") from error
    except (soundfile.SoundFileError, ValueError) as error:
        detail = f"{audio.num_channels} channels, {audio.sampling_rate} Hz"
        raise DataError(f"printed what FLAC cannot hold: {detail}: {error}") from error
    os.replace(scratch / "kept.flac", path)
    return note


def _unnamed(error: DataError, printed: Path) -> str:
    return str(error).replace(f"{printed}: ", "")


def _blocks(printed: Path, audio: Recording) -> Iterator[NDArray[np.float32]]:
    """Yield the samples (C, S) in blocks."""
    for start in range(0, audio.num_samples, BLOCK):
        yield read_audio(printed, start, min(BLOCK, audio.num_samples - start))[0]


def _format(printed: Path, audio: Recording) -> tuple[int, np.float32, str]:
    """Return the bits that hold every sample, the factor to full scale 1, and what is to be said."""
    exact, peak = True, 0.0
    for block in _blocks(printed, audio):
        if not np.isfinite(block).all():
            raise DataError(f"{np.count_nonzero(~np.isfinite(block))} NaN or infinite samples")
        scaled = block * np.float32(32768)
        exact = exact and bool(np.array_equal(np.rint(scaled), scaled))
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
    if peak > LARGEST_INT16_PEAK:
        raise DataError(f"samples of up to {peak:g}, where 1 is full scale")
    if peak > LARGEST_PEAK:  # as files are read
        return 24, INT16_SCALE, SCALED
    note = "commands that print samples above full scale, which FLAC clips" if peak > 1.0 else ""
    return (16 if exact and peak <= 1.0 else 24), np.float32(1.0), note


def _write(
    made: Path, printed: Path, audio: Recording, bits: int, scale: np.float32, tag: str
) -> None:
    steps = np.float64(1 << (bits - 1))
    # libsndfile takes 24 bits from the top of an int32
    kind, shift = (np.int16, 0) if bits == 16 else (np.int32, 8)
    options = {"format": "FLAC", "subtype": f"PCM_{bits}"}
    with soundfile.SoundFile(
        made, "w", audio.sampling_rate, audio.num_channels, **options
    ) as stream:
        # within the file, so that no kill leaves a tag without its audio
        stream.comment = tag
        for block in _blocks(printed, audio):
            values = np.rint(block.T * np.float64(scale) * steps)  # (S, C)
            values = np.clip(values, -steps, steps - 1).astype(np.int64) << shift
            stream.write(values.astype(kind))
