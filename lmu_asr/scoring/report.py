"""One self-contained page for each decode: rates, confusions, and every alignment in colour.

The page loads nothing from anywhere; every text that comes from data is escaped, and a content
security policy forbids all requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from lmu_asr.files import atomic_write_text
from lmu_asr.scoring.record import Rate, Results
from lmu_asr.scoring.score import EPSILON, ErrorReport, Pair, Scores, UtteranceErrors
from lmu_asr.scoring.table import format_duration, format_number, format_rate
from lmu_asr.scoring.transcripts import RATE_NAMES, error_tables

MOST_FREQUENT = 200

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { padding: .2rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8884; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
table.sort th { cursor: pointer; user-select: none; }
table.sort th[aria-sort=ascending]::after { content: " \\25B2"; }
table.sort th[aria-sort=descending]::after { content: " \\25BC"; }
.side { display: flex; flex-wrap: wrap; gap: 2rem; }
.scroll { max-height: 24rem; overflow: auto; }
ins, del, .sub, .wrong { text-decoration: none; border-radius: .2rem; padding: 0 .2rem; }
ins { background: #2a72d533; } del { background: #d5302a33; text-decoration: line-through; }
.sub { background: #d59b2a44; } .sub s { opacity: .75; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sort")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => {
      const x = value(a), y = value(b), d = Number(x) - Number(y);
      return (Number.isNaN(d) ? x.localeCompare(y) : d) * (down ? -1 : 1);
    };
    const body = table.tBodies[0];
    [...body.rows].sort(order).forEach(row => body.append(row));
  }));
}
"""

# inline, since style and script must be in the same file
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(path: Path, result: Results, scores: Scores) -> None:
    """Write the page of one decode, atomically."""
    atomic_write_text(path, report_html(result, scores))


def report_html(result: Results, scores: Scores) -> str:
    """Return the page: overall figures, most frequent errors, and the utterances, worst first."""
    title = f"{result.corpus} {result.name}: {result.split}, {result.method}"
    words = scores.words
    parts = [
        f"<h1>{escape(title)}</h1>",
        _facts(result),
        f'<h2>Errors by kind</h2><div class="side">{"".join(_confusions(words))}</div>',
        f"<h2>Utterances</h2><p>{LEGEND} A click on a heading sorts.</p>",
        _utterances(words),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


LEGEND = (
    '<ins>inserted</ins> <del>deleted</del> <span class="sub"><s>reference</s> hypothesis</span>.'
)


def _facts(result: Results) -> str:
    cost, made = result.cost, result.provenance
    scales = ", ".join(f"{name} {value:g}" for name, value in sorted(result.scales.items()))
    latency = "whole utterance" if cost.latency_ms is None else f"{cost.latency_ms:.0f} ms"
    rows = [
        (RATE_NAMES[result.unit], _rate_words(result.wer, result.unit)),
        ("CER", _rate_words(result.cer, "character")),
        ("utterances", str(len(result.utterances))),
        ("decoded greedily (empty lattice)", str(result.fallbacks)),
        ("scales chosen on dev", scales or "none"),
        ("engine", result.engine),
        ("parameters", f"{cost.parameters:,}"),
        (
            "real-time factor",
            f"{cost.rtf:.4f} (encoder {cost.encoder_rtf:.4f}, search {cost.search_rtf:.4f})",
        ),
        ("latency", latency),
        ("training time", format_duration(cost.training_seconds)),
        ("checkpoint", f"{made.checkpoint} {made.checkpoint_sha256[:16]}"),
        ("versions", f"lmu_asr {made.code_version}, torch {made.torch_version}"),
        ("machine", made.device),
    ]
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<table><tbody>{cells}</tbody></table>"


def _rate_words(rate: Rate, unit: str) -> str:
    return (
        f"{format_rate(rate)} %: {rate.substitutions} substitutions, {rate.deletions} deletions, "
        f"{rate.insertions} insertions over {rate.length} {unit}s"
    )


def _confusions(report: ErrorReport) -> Iterator[str]:
    tables = error_tables(report)
    pairs = [(ref, hyp, n) for (ref, hyp), n in tables.substitutions.most_common()]
    yield _count_table("Substitutions", ("reference", "hypothesis"), pairs)
    yield _count_table("Deletions", ("reference",), tables.deletions.most_common())
    yield _count_table("Insertions", ("hypothesis",), tables.insertions.most_common())


def _count_table(title: str, names: Sequence[str], rows: Sequence[tuple]) -> str:
    shown = rows[:MOST_FREQUENT]
    body = (
        "<tr>" + "".join(map(_text, row[:-1])) + _number(row[-1], str(row[-1])) + "</tr>"
        for row in shown
    )
    more = (
        f"<p>{len(rows) - len(shown)} rarer ones are not shown.</p>" if rows[len(shown) :] else ""
    )
    table = _table((*names, "count"), body)
    return f'<section><h3>{title}</h3><div class="scroll">{table}</div>{more}</section>'


def _utterances(report: ErrorReport) -> str:
    worst = sorted(report.utterances, key=lambda u: (-u.counts.errors, u.id))
    return _table(("utterance", "length", "errors", "rate %", "alignment"), map(_utterance, worst))


def _utterance(utterance: UtteranceErrors) -> str:
    counts = utterance.counts
    cells = [
        _text(utterance.id),
        _number(counts.length, str(counts.length)),
        _number(counts.errors, str(counts.errors)),
        _number(counts.rate, format_number(counts.rate)),
        f"<td>{' '.join(map(_coloured, utterance.alignment))}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _coloured(pair: Pair) -> str:
    ref, hyp = map(escape, pair)
    if pair[0] == EPSILON:
        return f"<ins>{hyp}</ins>"
    if pair[1] == EPSILON:
        return f"<del>{ref}</del>"
    return ref if ref == hyp else f'<span class="sub"><s>{ref}</s> {hyp}</span>'


def _table(names: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        f'<table class="sort"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _text(value: str) -> str:
    return f"<td>{escape(value)}</td>"


def _number(value: float, shown: str) -> str:
    # the script sorts by this number, not by the text shown
    return f'<td class="n" data-value="{value}">{shown}</td>'
