"""A picture of the results: error rate of every variant and method with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmu_asr.files import atomic_path
from lmu_asr.scoring.record import Results
from lmu_asr.scoring.transcripts import RATE_NAMES


def plot_results(path: Path, results: Sequence[Results]) -> bool:
    """Draw test error rates with 95 % intervals to ``path`` (PNG), atomically.

    One panel a test split, one row a variant, one colour a method. Returns False, and draws
    nothing, where no result has a rate.
    """
    shown = [r for r in results if r.role == "test" and r.wer.rate is not None]
    if not shown:
        return False
    # not pyplot, which keeps every figure and may look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    splits = sorted({r.split for r in shown})
    # reversed, since matplotlib counts rows from below
    variants = sorted({_label(r) for r in shown}, reverse=True)
    methods = list(dict.fromkeys(r.method for r in shown))
    figure = Figure(figsize=(5.5 * len(splits) + 1.5, 1.6 + 0.35 * len(variants) * len(methods)))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for panel, split in zip(panels, splits, strict=True):
        for index, method in enumerate(methods):
            own = [r for r in shown if r.split == split and r.method == method]
            offset = (index + 0.5) / len(methods) - 0.5
            _draw(panel, own, variants, 0.7 * offset, f"C{index}", method)
        unit = "/".join(sorted({RATE_NAMES[r.unit] for r in shown if r.split == split}))
        panel.set(title=split, xlabel=f"{unit} % with 95 % interval", xlim=(0, None))
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(variants)), variants)
    panels[0].set_ylim(-0.6, len(variants) - 0.4)
    panels[-1].legend(loc="best", fontsize="small")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        # without the version of matplotlib the same results give the same file
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    return True


def _draw(
    panel: object,
    results: Sequence[Results],
    variants: Sequence[str],
    offset: float,
    colour: str,
    label: str,
) -> None:
    """Draw the points of one method with their intervals."""
    if not results:
        return
    rates = [float(r.wer.rate or 0.0) for r in results]
    low = [rate - float(r.wer.low or 0.0) for rate, r in zip(rates, results, strict=True)]
    high = [float(r.wer.high or rate) - rate for rate, r in zip(rates, results, strict=True)]
    rows = [variants.index(_label(r)) - offset for r in results]
    panel.errorbar(  # type: ignore[attr-defined]
        rates,
        rows,
        # a bound of the bootstrap may lie past the rate itself, and lengths must not be negative
        xerr=[[max(0.0, v) for v in low], [max(0.0, v) for v in high]],
        fmt="o",
        color=colour,
        capsize=3,
        label=label,
    )


def _label(result: Results) -> str:
    """The variant, with a star where ``--set`` changed it."""
    return f"{result.variant} *" if result.overrides else result.variant
