"""Words in time as files: NIST CTM and Praat TextGrid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lmu_asr.decoding.align import Span
from lmu_asr.files import atomic_write_text
from lmu_asr.fsa.hypothesis import Hypothesis


def hypothesis_spans(hypothesis: Hypothesis) -> list[Span]:
    """Words of a hypothesis with their spans; confidence 1 where no lattice was made.

    Empty where the search knows no spans (phones decoded greedily).
    """
    if len(hypothesis.word_spans) != len(hypothesis.words):
        return []
    confidences = hypothesis.confidences or [1.0] * len(hypothesis.words)
    return [
        Span(word, begin, end, confidence)
        for word, (begin, end), confidence in zip(
            hypothesis.words, hypothesis.word_spans, confidences, strict=True
        )
    ]


def write_ctm(path: Path, spans: Mapping[str, Sequence[Span]], frame_seconds: float) -> None:
    """Write ``utterance channel begin duration word confidence`` lines, seconds; atomic.

    Args:
        path: file to write.
        spans: utterance id to its words, in order.
        frame_seconds: seconds of one frame after subsampling.
    """
    lines = [
        # CTM wants a channel, and an utterance here has one
        f"{name} 1 {span.begin * frame_seconds:.3f} {(span.end - span.begin) * frame_seconds:.3f}"
        f" {span.label} {span.confidence:.4f}\n"
        for name, words in spans.items()
        for span in words
    ]
    atomic_write_text(path, "".join(lines))


def write_textgrid(
    path: Path, tiers: Mapping[str, Sequence[Span]], num_frames: int, frame_seconds: float
) -> None:
    """Write one utterance as a Praat TextGrid (long format), gaps as empty intervals; atomic.

    Args:
        path: file to write.
        tiers: tier name (words, tokens) to its spans, in order.
        num_frames: frames of the utterance after subsampling.
        frame_seconds: seconds of one frame after subsampling.
    """
    end = num_frames * frame_seconds
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end:.6g}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for index, (name, spans) in enumerate(tiers.items(), 1):
        intervals = _intervals(spans, num_frames)
        lines += [
            f"    item [{index}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {end:.6g}",
            f"        intervals: size = {len(intervals)}",
        ]
        for number, (begin, stop, label) in enumerate(intervals, 1):
            # Praat doubles a quotation mark inside a text
            text = label.replace('"', '""')
            lines += [
                f"        intervals [{number}]:",
                f"            xmin = {begin * frame_seconds:.6g}",
                f"            xmax = {stop * frame_seconds:.6g}",
                f'            text = "{text}"',
            ]
    atomic_write_text(path, "\n".join(lines) + "\n")


def _intervals(spans: Sequence[Span], num_frames: int) -> list[tuple[int, int, str]]:
    """Cover all frames: the spans, and empty intervals between them."""
    out: list[tuple[int, int, str]] = []
    at = 0
    for span in spans:
        if span.begin > at:
            out.append((at, span.begin, ""))
        out.append((span.begin, span.end, span.label))
        at = span.end
    # a tier of a TextGrid has at least one interval
    if at < num_frames or not out:
        out.append((at, num_frames, ""))
    return out
