"""Reads many changed copies of a file, each within limits, and counts what became of them.

An input is named by its target and its number: the same number is the same input on every machine.
"""

from __future__ import annotations

import contextlib
import logging
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmu_asr.errors import LmuAsrError
from tests.fuzz.mutate import mutate

CPU_SECONDS = 1.0  # of this process: other jobs on the machine do not count
MEMORY = 200 << 20  # bytes beyond what the process has
HANGS = 20.0  # CPU seconds, after which an input is stopped


@dataclass(frozen=True)
class Target:
    """One parser of files that users bring.

    Attributes:
        name: of the format.
        files: a good example, by the names of its files.
        read: reads the files from a directory and says what became of them in one word. It
            checks what must hold (rows in = rows kept + rows dropped) and raises AssertionError.
        text: whether the files are lines of text.
        changed: the files that are changed, one at a time; all by default.
        remake: applied to a changed file before it is written (a new seal, for example).
    """

    name: str
    files: Mapping[str, bytes]
    read: Callable[[Path], str]
    text: bool = True
    changed: Sequence[str] = ()
    remake: Callable[[bytes], bytes] = bytes


@dataclass
class Report:
    """What became of the inputs of one target: counts by outcome, faults by kind."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    slowest: float = 0.0
    seconds: float = 0.0

    def line(self) -> str:
        """Return the counts on one line."""
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        total = sum(self.counts.values())
        return f"{self.name}: {total} inputs in {self.seconds:.1f} s: {counts}; slowest {self.slowest:.2f} s"


def run(target: Target, folder: Path, numbers: Sequence[int]) -> Report:
    """Read the inputs ``numbers`` of a target in ``folder``; the good example is read first."""
    report = Report(target.name)
    names = list(target.changed or target.files)
    logging.disable(logging.CRITICAL)
    try:
        good = {n: target.remake(d) if n in names else d for n, d in target.files.items()}
        _write(folder, good)
        outcome = target.read(folder)  # loads what is loaded at first use, too
        assert outcome != "refused", f"{target.name}: the good example is refused"
        start = time.process_time()
        for number in numbers:
            rng = random.Random(f"{target.name} {number}")
            name = rng.choice(names)
            data = target.remake(mutate(rng, target.files[name], target.text))
            _write(folder, {name: data})
            _one(target, folder, number, report)
            _write(folder, {name: good[name]})
        report.seconds = time.process_time() - start
    finally:
        logging.disable(logging.NOTSET)
    return report


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _one(target: Target, folder: Path, number: int, report: Report) -> None:
    outcome, fault, seconds = _outcome(target, folder)
    if seconds > CPU_SECONDS:  # twice is no accident
        outcome, fault, seconds = _outcome(target, folder)
        if seconds > CPU_SECONDS:
            fault = fault or ("slow", f"{seconds:.1f} s of CPU")
    report.slowest = max(report.slowest, seconds)
    report.counts["FAULT" if fault else outcome] += 1
    if fault:
        kind, text = fault
        report.faults.setdefault(kind, f"{target.name} {number}: {text}")


def _outcome(target: Target, folder: Path) -> tuple[str, tuple[str, str] | None, float]:
    """Return what became of one input, its fault (kind, description) if any, and CPU seconds."""
    start = time.process_time()
    try:
        with _limits():
            try:
                outcome = target.read(folder)
            except LmuAsrError as error:
                _check_message(error)
                outcome = "refused"
        return outcome, None, time.process_time() - start
    except Exception as error:  # whatever comes is what is looked for
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "lmu_asr/" in f.filename]
        place = ours[-1] if ours else frame
        kind = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        text = "".join(traceback.format_exception(error, limit=-6))
        return "FAULT", (kind, text[-3000:]), time.process_time() - start


def _check_message(error: LmuAsrError) -> None:
    text = str(error)
    assert text and len(text) < 5000, f"a message of {len(text)} characters: {text[:200]!r}"


class _HangError(Exception):
    """An input that is read for too long."""


def _stop(*_: Any) -> None:
    raise _HangError(f"more than {HANGS:g} s of CPU")


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Hold memory down, by the address space, and stop what hangs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, _stop)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)
