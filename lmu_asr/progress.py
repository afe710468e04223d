"""Progress of long work: a bar with rate and time left on a terminal, plain log lines otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from lmu_asr.errors import show_names_on

CHANGES_NO_OUTPUT = True

T = TypeVar("T")
LOG_EVERY_SECONDS = 10.0


def setup_logging(level: int = logging.INFO) -> None:
    """Log to standard error with time stamps, once per process; show names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        show_names_on(stream)
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )


def progress(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "it"
) -> Iterator[T]:
    """Iterate over ``items`` and show how far it is: a bar on a terminal, else a line every 10 s."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        yield from tqdm(items, desc=description, total=total, unit=unit, smoothing=0.05)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            logging.info("%s: %s", description, _progress_line(count, total, unit, now - start))


def _progress_line(count: int, total: int | None, unit: str, seconds: float) -> str:
    rate = count / max(seconds, 1e-9)
    if total is None:
        return f"{count} {unit}, {rate:.1f} {unit}/s"
    return f"{count}/{total} {unit}, {rate:.1f} {unit}/s, {(total - count) / max(rate, 1e-9):.0f} s left"
