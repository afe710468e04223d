"""Tables of the benchmark of the memory, and what is claimed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmu_asr.files import atomic_write_text


@dataclass
class Measured:
    """Least times in ms, and the peak of memory above the start in MiB, of one candidate."""

    name: str
    frames: int
    forward: float = float("inf")
    both: float = float("inf")
    peak: float = 0.0
    limits: tuple[float, float] = (0.0, 0.0)
    extra: dict[str, Any] = field(default_factory=dict)


def show_choice(rows: list[Measured]) -> str:
    """Name the fastest form of each shape, and what ``auto`` takes over the fastest."""
    lines = [
        "| channels | order | frames | read-out | fastest forward | fastest forward+backward "
        "| auto over them |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for row in rows:
        groups.setdefault((*row.extra.values(), row.frames), []).append(row)
    for (C, Q, readout, T), group in groups.items():
        auto = next(row for row in group if row.name == "auto")
        forward = min(group, key=lambda row: row.forward)
        both = min(group, key=lambda row: row.both)
        lines.append(
            f"| {C} | {Q} | {T} | {'yes' if readout else 'no'} | {forward.name} "
            f"{forward.forward:.2f} ms | {both.name} {both.both:.2f} ms "
            f"| {auto.forward / forward.forward:.2f}, {auto.both / both.both:.2f} |"
        )
    return "\n".join(lines)


def show(rows: list[Measured]) -> str:
    """Rows of one board and length as a table."""
    best = min(row.both for row in rows)
    lines = [
        "| candidate | frames | forward ms | forward+backward ms | peak MiB | ratio to best "
        "| share of limit, forward | forward+backward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.frames} | {row.forward:.1f} | {row.both:.1f} | {row.peak:.0f} "
        f"| {row.both / best:.2f} | {100 * row.limits[0] / row.forward:.0f} % "
        f"| {100 * row.limits[1] / row.both:.0f} % |"
        for row in rows
    ]
    return "\n".join(lines)


Found = dict[tuple[str, str, int], Measured]
RAGGED, CONV = "the same, lengths of half to all", "depthwise nn.Conv1d, width 31"
SCAN, FFT = "pytorch-lmu LMU (sequential)", "pytorch-lmu LMUFFT (fixed length)"


def claims(found: Found) -> str:
    """What is asked of the memory and what this run gave, for what this run measured."""

    def layer(name: str, frames: int = 1000) -> float:
        return found["layer", name, frames].both

    def depthwise(name: str) -> Measured:
        return found["depthwise", name, 1000]

    asked: list[tuple[str, str, Callable[[], float]]] = [
        ("sequential scan over ours, 1000 frames", "at least 6", lambda: layer(SCAN) / layer(RAGGED)),
        ("nn.LSTM over ours, 1000 frames", "at least 6", lambda: layer("nn.LSTM") / layer(RAGGED)),
        ("FFT layer over ours, 1000 frames", "at least 1", lambda: layer(FFT) / layer(RAGGED)),
        ("FFT layer over ours, 3000 frames", "at least 1.5",
         lambda: layer(FFT, 3000) / layer(RAGGED, 3000)),
        ("ours over its products, 1000 frames", "at most 1.3",
         lambda: layer(RAGGED) / layer("its products alone")),
        ("ours, 3000 frames over 1000", "at most 3.5", lambda: layer(RAGGED, 3000) / layer(RAGGED)),
        ("its peak of memory, 30,000 frames over 3000", "10",
         lambda: found["layer", RAGGED, 30000].peak / found["layer", RAGGED, 3000].peak),
        ("depthwise memory over convolution, forward", "at most 0.5",
         lambda: depthwise("memory, auto").forward / depthwise(CONV).forward),
        ("depthwise memory over convolution, forward+backward", "at most 0.7",
         lambda: depthwise("memory, auto").both / depthwise(CONV).both),
        ("depthwise memory, 3000 frames over 1000", "at most 3.5",
         lambda: found["depthwise", "memory, auto", 3000].both / depthwise("memory, auto").both),
    ]  # fmt: skip
    lines = ["| forward and backward, lengths of half to all | asked | measured |", "|---|---|---|"]
    for name, bound, measure in asked:
        try:
            lines.append(f"| {name} | {bound} | {measure():.2f} |")
        except KeyError:  # not among this run's boards, lengths or peers
            continue
    return "\n".join(lines)


def write(file: Path, part: str, texts: list[str]) -> None:
    """Put the texts between ``<!-- part -->`` and ``<!-- end of part -->`` of a file."""
    head, start, rest = file.read_text(encoding="utf-8").partition(f"<!-- {part} -->")
    _, end, tail = rest.partition(f"<!-- end of {part} -->")
    if not start or not end:
        raise SystemExit(f"{file} has no place for the part {part!r}")
    atomic_write_text(file, "\n\n".join([head + start, *texts, end + tail]))
