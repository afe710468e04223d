"""What a run shows of itself: speed, memory, data wait, a bar on a terminal, log lines otherwise."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from lmu_asr.training.loop.state import Window

CHANGES_NO_OUTPUT = True

T = TypeVar("T")
LOW_MEMORY = 0.03


class Clock:
    """Wall time, and CPU time of this process and of its children that have ended, in seconds."""

    def __init__(self) -> None:
        self._last = self._now()

    def tick(self) -> tuple[float, float]:
        """Wall and CPU seconds since the last call."""
        before, self._last = self._last, self._now()
        return self._last[0] - before[0], self._last[1] - before[1]

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), sum(os.times()[:4])


class Stopwatch:
    """Wall time since the last reading, and the share of it spent waiting for data."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over ``items`` and count the time until each arrives."""
        iterator = iter(items)
        while True:
            start = time.monotonic()
            try:
                item = next(iterator)
            # leaving a generator, StopIteration would become a RuntimeError (PEP 479)
            except StopIteration:
                return
            self._waited += time.monotonic() - start
            yield item

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out."""
        start = time.monotonic()
        yield
        self._start += time.monotonic() - start

    def read(self) -> tuple[float, float]:
        """Seconds since the last reading, and the share of them waited; starts anew."""
        now = time.monotonic()
        seconds, waited = max(now - self._start, 1e-9), self._waited
        self._start, self._waited = now, 0.0
        return seconds, min(1.0, waited / seconds)


def window_metrics(
    window: Window, seconds: float, waited: float, device: torch.device
) -> dict[str, float]:
    """Metrics of one log window; ``seconds`` and ``waited`` are of this process since the last one."""
    steps = max(window.steps, 1)
    padded = max(window.padded_frames, 1.0)
    return {
        "loss": window.loss / max(window.frames, 1.0),
        "grad_norm": window.grad_norm / steps,
        "padding": 1.0 - window.real_frames / padded,
        "audio_hours_per_hour": window.seconds / seconds,
        "steps_per_second": steps / seconds,
        "data_wait": waited,
        "memory_mib": memory_mib(device),
    }


class Display:
    """One bar for the whole run on a terminal, log lines elsewhere; silent where not ``shown``."""

    def __init__(self, shown: bool, step: int, total_steps: int) -> None:
        self.shown = shown
        self.total = total_steps
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(
                initial=step, total=total_steps, desc="train", unit="step", smoothing=0.05
            )

    def advance(self) -> None:
        """One more step."""
        if self._bar is not None:
            self._bar.update(1)

    def report(self, epoch: int, step: int, metrics: dict[str, float]) -> None:
        """Show the metrics of a log window."""
        if not self.shown:
            return
        text = metrics_line(metrics)
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            return
        left = (self.total - step) / max(metrics["steps_per_second"], 1e-9)
        logging.info("epoch %d step %d/%d: %s, %s left", epoch, step, self.total, text, clock(left))

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def metrics_line(metrics: dict[str, float]) -> str:
    """One line of a log window's metrics."""
    return (
        f"loss {metrics['loss']:.4f}, lr {metrics['lr']:.2e}, grad norm {metrics['grad_norm']:.2f}, "
        f"{metrics['audio_hours_per_hour']:.0f} audio-h/h, padding {metrics['padding']:.1%}, "
        f"data wait {metrics['data_wait']:.1%}, {metrics['memory_mib']:.0f} MiB"
    )


def skip_line(
    reason: str, norm: float, utterances: Sequence[str], parameters: Sequence[str]
) -> str:
    """One line of a step that was skipped, with some of the utterances and parameters it names."""
    parts = [f"{reason} (gradient norm {norm}), utterances {_some(utterances)}"]
    parts += [f"undefined gradients of {_some(parameters)}"] if parameters else []
    return "; ".join(parts)


def _some(names: Sequence[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return " ".join(names[:count]) + more


def clock(seconds: float) -> str:
    """Seconds as ``h:mm:ss`` or ``m:ss``."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def memory_mib(device: torch.device) -> float:
    """Peak GPU memory of this process's tensors, or its resident memory on a CPU, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**20
    return 0.0


def dev_line(epoch: int, unit: str, loss: float, wer: float, best: bool) -> str:
    """One line of a validation."""
    kind = "phone" if unit == "phone" else "word"
    mark = " (best)" if best else ""
    return f"epoch {epoch}: dev loss {loss:.4f}, greedy {kind} error rate {wer:.2%}{mark}"
