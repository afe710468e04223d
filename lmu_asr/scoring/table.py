"""The results table across variants, and the generated ``RESULTS.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lmu_asr.files import atomic_write_text
from lmu_asr.scoring.compare import p_value
from lmu_asr.scoring.record import Rate, Results

COLUMNS = (
    "variant",
    "method",
    "split",
    "WER % [95 % CI]",
    "CER %",
    "p vs baseline",
    "params, M",
    "RTF",
    "latency, ms",
    "training",
    "scales (dev)",
)


def table_markdown(
    results: Sequence[Results], baseline: str = "", splits: Sequence[str] = ()
) -> str:
    """Return the results as a Markdown table, one row for each variant, method and split.

    Args:
        results: what :func:`lmu_asr.scoring.results.collect` gave.
        baseline: variant that the p-values compare with, method by method; empty: ``default``
            where there is one, else the first whose name begins so, else the first.
        splits: splits to show; empty: all whose role is ``test``.

    Returns:
        The table with a closing newline; a phone error rate is marked ``PER``.
    """
    shown = [r for r in results if (r.split in splits if splits else r.role == "test")]
    # False sorts first: the baseline leads each split
    shown.sort(key=lambda r: (r.split, r.variant != _baseline(results, baseline), r.variant))
    references = {
        (r.split, r.method): r for r in shown if r.variant == _baseline(results, baseline)
    }
    rows = [_row(r, references.get((r.split, r.method))) for r in shown]
    names = [*COLUMNS]
    if any(r.oracle is not None for r in shown):
        names.append("oracle %")
        rows = [[*row, format_oracle(r)] for row, r in zip(rows, shown, strict=True)]
    lines = [names, ["---"] * len(names), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _baseline(results: Sequence[Results], name: str) -> str:
    variants = [r.variant for r in results]
    if name:
        return name
    # a stable sort: where none is called default, the first one stays first
    first = sorted(variants, key=lambda v: (v != "default", not v.startswith("default")))
    return first[0] if first else "default"


def _row(result: Results, reference: Results | None) -> list[str]:
    cost = result.cost
    return [
        result.name,
        result.method,
        result.split,
        ("" if result.unit == "word" else "PER ") + format_rate(result.wer),
        # characters of phone symbols are no characters of a text
        format_number(result.cer.rate) if result.unit == "word" else "-",
        _significance(result, reference),
        f"{cost.parameters / 1e6:.2f}",
        f"{cost.rtf:.4f} ({cost.encoder_rtf:.4f} + {cost.search_rtf:.4f})",
        "offline" if cost.latency_ms is None else f"{cost.latency_ms:.0f}",
        format_duration(cost.training_seconds),
        format_scales(result.scales),
    ]


def _significance(result: Results, reference: Results | None) -> str:
    if reference is None:
        return "-"
    if reference.variant == result.variant:
        return "baseline"
    p = p_value(result, reference)
    if p is None:
        return "not comparable"
    change = result.wer.errors - reference.wer.errors
    sign = "better" if change < 0 else "worse" if change > 0 else "equal"
    return f"{p:.3f} ({sign})"


def format_rate(rate: Rate) -> str:
    """Return ``rate [low, high]`` in per cent."""
    if rate.rate is None:
        return "n/a"
    return f"{rate.rate:.2f} [{format_number(rate.low)}, {format_number(rate.high)}]"


def format_number(value: float | None) -> str:
    """Return a rate with two decimals, or ``n/a``."""
    return "n/a" if value is None else f"{value:.2f}"


def format_scales(scales: Mapping[str, float]) -> str:
    """Return the scales that differ from 1 (penalties: from 0), ``-`` where none does."""
    neutral = {"acoustic_scale": 1.0, "blank_penalty": 0.0}
    shown = (f"{n} {v:g}" for n, v in sorted(scales.items()) if v != neutral.get(n))
    return ", ".join(shown) or "-"


def format_oracle(result: Results) -> str:
    """Return the error rate of the best of the n best paths, ``-`` where none were searched."""
    return "-" if result.oracle is None else f"{result.oracle:.2f}"


def format_duration(seconds: float) -> str:
    """Return seconds as ``1 h 02 min``, ``3.5 min`` or ``12 s``; ``-`` for none."""
    if seconds <= 0:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    # rounded first, or 1 h 59.6 min would read as 1 h 60 min
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _cell(value: str) -> str:
    # a bar would end the cell, a line break the row
    return value.replace("|", "\\|").replace("\n", " ")


def results_markdown(
    results: Sequence[Results], commands: Sequence[str], baseline: str = "", note: str = ""
) -> str:
    """Return the whole ``RESULTS.md``: the table, how to read it and how it was made."""
    corpus = results[0].corpus if results else "no corpus"
    dev = sorted({r.split for r in results if r.role == "dev"})
    parts = [
        f"# Results: {corpus}",
        "Generated by stage 6; do not edit.",
        *([note] if note else []),
        table_markdown(results, baseline).rstrip(),
        READING,
        *([MARKED] if any(r.overrides for r in results) else []),
        *(["## Development", table_markdown(results, baseline, dev).rstrip()] if dev else []),
        "## Made by",
        "In the directory of `run.sh`:",
        "\n".join(f"    {command}" for command in commands),
        _facts(results),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(results: Sequence[Results]) -> str:
    machines = sorted({r.provenance.device for r in results if r.provenance.device})
    versions = sorted({(r.provenance.code_version, r.provenance.torch_version) for r in results})
    engines = sorted({r.engine for r in results})
    said = "; ".join(f"lmu_asr {code}, torch {torch}" for code, torch in versions)
    return (
        f"Machine: {'; '.join(machines) or 'not recorded'}. {said}. Engine: {', '.join(engines)}."
    )


READING = """\
WER and CER in per cent. The interval is the middle 95 % of resamplings of whole utterances
(`decode.bootstrap`); p is the two-sided paired bootstrap against the baseline variant with the same
method on the same utterances. RTF is computing time over audio time, in brackets encoder + search.
Scales were chosen on the dev split alone and frozen before the test split was read; an acoustic
scale of 1 and a blank penalty of 0 are left out."""

MARKED = """\
Options in brackets were changed by `--set`: that row is not the variant as its file has it."""


def write_results_markdown(
    path: Path,
    results: Sequence[Results],
    commands: Sequence[str],
    baseline: str = "",
    note: str = "",
) -> None:
    """Write ``RESULTS.md`` atomically; arguments as for :func:`results_markdown`."""
    atomic_write_text(path, results_markdown(results, commands, baseline, note))
