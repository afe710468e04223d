"""Metrics of a run: a history that resume continues without gap or repeat, and its pictures.

Every row is a JSON object with ``kind`` (``train``, ``dev`` or ``final``), ``step`` and ``epoch``.
The checkpoint holds the rows up to its step; on resume ``metrics.jsonl`` is set back to them, and
the steps after them write theirs again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmu_asr.errors import DocumentError
from lmu_asr.files import atomic_path, atomic_write_text, parse_json
from lmu_asr.training.loop.trackers import Tracker

CHANGES_NO_OUTPUT = ("plot_training", "_curve")


class MetricsLog:
    """Rows of metrics on disk (``metrics.jsonl``) and, if wanted, as TensorBoard events.

    Args:
        directory: the experiment directory.
        rows: history to go on from; what is on disk beyond it is dropped.
        trackers: what else takes the numbers of each row.
        writes: whether this process writes at all.
    """

    def __init__(
        self,
        directory: Path,
        rows: Sequence[dict[str, Any]],
        trackers: Sequence[Tracker] = (),
        writes: bool = True,
    ) -> None:
        self.writes = writes
        self.path = directory / "metrics.jsonl"
        self.rows = list(rows)
        self._ok = True
        self._rewrite()
        self._trackers = list(trackers)

    def add(self, kind: str, step: int, epoch: int, **values: Any) -> None:
        """Append one row; a full disk is said once and does not stop the run."""
        row = {"kind": kind, "step": step, "epoch": epoch, **values}
        self.rows.append(row)
        if not self._ok:
            # the append that failed may have left half a line, so the whole file is written
            self._rewrite()
        else:
            self._append(json.dumps(row) + "\n")
        numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, (int, float))}
        for tracker in self._trackers:
            tracker.add(numbers, step)

    def close(self) -> None:
        """Make sure that everything is on disk."""
        if not self._ok:
            self._rewrite()
        for tracker in self._trackers:
            tracker.close()

    def _append(self, line: str) -> None:
        if not self.writes:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            self._failed(error)

    def _rewrite(self) -> None:
        if not self.writes:
            return
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        try:
            atomic_write_text(self.path, text)
            self._ok = True
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if self._ok:
            logging.error("%s cannot be written: %s; tried again later", self.path, error.strerror)
        self._ok = False


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``; a last line that a killed process cut is left out, and said.

    Raises:
        DocumentError: another line is no row.
    """
    # bytes, since a kill may have cut the last line inside a character
    lines = Path(path).read_bytes().split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = parse_json(line, f"{path}:{number}")
            if not isinstance(row, dict) or "kind" not in row:
                raise DocumentError(f"{path}:{number}: want a row with 'kind', 'step', 'epoch'")
        except DocumentError as error:
            # whole lines end in a newline, so only a cut one can be the last piece
            if number < len(lines):
                raise
            logging.warning("%s: the last line is cut, it is left out", error)
            continue
        rows.append(row)
    return rows


def plot_training(
    rows: Sequence[dict[str, Any]], path: Path, title: str, unit: str = "word"
) -> None:
    """Draw loss, dev error rate, learning rate and gradient norm over the steps into ``path`` (PNG).

    ``unit``: what the error rate counts.
    """
    # here, since the import takes long and only rank 0 draws
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, 2)
    train = [row for row in rows if row["kind"] == "train"]
    dev = [row for row in rows if row["kind"] == "dev"]
    _curve(axes[0, 0], train, "loss", "loss per frame", label="train")
    _curve(axes[0, 0], dev, "loss", "loss per frame", label="dev", marker=".")
    _curve(axes[0, 1], dev, "wer", f"dev {unit} error rate", scale=100.0, marker=".")
    axes[0, 1].set_ylabel("%")
    axes[0, 1].set_ylim(bottom=0)
    _curve(axes[1, 0], train, "lr", "learning rate")
    _curve(axes[1, 1], train, "grad_norm", "gradient norm")
    axes[1, 1].set_yscale("log")
    axes[0, 0].legend(loc="upper right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _curve(
    axis: Any,
    rows: Sequence[dict[str, Any]],
    key: str,
    title: str,
    scale: float = 1.0,
    **style: Any,
) -> None:
    points = [(row["step"], scale * row[key]) for row in rows if row.get(key) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), linewidth=1.2, **style)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
