"""Record of decodes: errors, intervals, costs and provenance, and ``results.json``."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from lmu_asr import __version__
from lmu_asr.errors import DataError, DocumentError
from lmu_asr.files import read_json, write_json
from lmu_asr.records import record
from lmu_asr.scoring.score import ErrorReport, Scores

FORMAT = 1
MARKS = 4  # overrides that the table shows; the record has all


@dataclass(frozen=True)
class Rate:
    """One error rate with its parts; rates in per cent, ``None`` where there is no reference."""

    rate: float | None
    low: float | None
    high: float | None
    insertions: int
    deletions: int
    substitutions: int
    length: int

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions together."""
        return self.insertions + self.deletions + self.substitutions

    @classmethod
    def of(cls, report: ErrorReport) -> Rate:
        """Take the overall figures of a report."""
        counts = report.counts
        return cls(
            _finite(report.rate),
            _finite(report.interval[0]),
            _finite(report.interval[1]),
            counts.insertions,
            counts.deletions,
            counts.substitutions,
            counts.length,
        )


@dataclass(frozen=True)
class UtteranceResult:
    """Errors of one utterance, kept so that two systems can be compared later."""

    id: str
    words: int
    word_errors: int
    chars: int
    char_errors: int


@dataclass(frozen=True)
class Cost:
    """What the decode cost.

    ``encoder_seconds`` and ``search_seconds`` are wall time on ``threads`` CPU threads or the
    device; ``latency_ms`` is what the model must wait for before it can answer about a moment, None
    for a model that needs the whole utterance; ``training_seconds`` is 0 where it is not known.
    """

    parameters: int = 0
    audio_seconds: float = 0.0
    encoder_seconds: float = 0.0
    search_seconds: float = 0.0
    latency_ms: float | None = None
    training_seconds: float = 0.0
    threads: int = 1

    @property
    def rtf(self) -> float:
        """Real-time factor: encoder and search time over the audio's duration."""
        return self.encoder_rtf + self.search_rtf

    @property
    def encoder_rtf(self) -> float:
        """Encoder's share of the real-time factor."""
        return self.encoder_seconds / self.audio_seconds if self.audio_seconds else 0.0

    @property
    def search_rtf(self) -> float:
        """Search's share of the real-time factor."""
        return self.search_seconds / self.audio_seconds if self.audio_seconds else 0.0


@dataclass(frozen=True)
class Provenance:
    """What made the decode: fingerprints and versions, and the kind of machine, not its name."""

    checkpoint: str = ""
    checkpoint_sha256: str = ""
    config_sha256: str = ""
    lang_fingerprint: str = ""
    code_version: str = __version__
    torch_version: str = ""
    device: str = ""
    command: str = ""


@dataclass(frozen=True)
class Results:
    """One decode of one split with one method; ``role`` is ``dev`` or ``test``.

    ``unit`` says what ``wer`` counts: ``word``, or ``phone`` where the hypothesis is phones.
    ``oracle`` is the error rate of the best path among the n best, in per cent, where searched.
    ``overrides`` are the options, ``key=value``, in which training or decoding left the variant.
    """

    corpus: str
    variant: str
    method: str
    split: str
    role: str
    engine: str
    unit: str
    wer: Rate
    cer: Rate
    utterances: tuple[UtteranceResult, ...]
    scales: dict[str, float] = field(default_factory=dict)
    fallbacks: int = 0
    oracle: float | None = None
    seed: int = 42
    cost: Cost = field(default_factory=Cost)
    provenance: Provenance = field(default_factory=Provenance)
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The variant, marked with what ``--set`` changed in it: it is not the variant itself."""
        shown = [*self.overrides[:MARKS], "..."] if len(self.overrides) > MARKS else self.overrides
        return f"{self.variant} ({', '.join(shown)})" if shown else self.variant

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists."""
        values = asdict(self)
        # rows without names, since there may be many thousands
        values["utterances"] = [list(asdict(u).values()) for u in self.utterances]
        # for other readers of the file; from_json works it out again
        values["cost"]["rtf"] = self.cost.rtf
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str) -> Results:
        """Build from what :meth:`to_json` gave; ``source`` names it in errors.

        Raises:
            DataError: a missing or unknown key, or a value of the wrong kind.
        """
        names = [f.name for f in fields(UtteranceResult)]
        try:
            # a copy, so that the caller's document stays as it was
            values = dict(values)
            values["cost"] = {k: v for k, v in values["cost"].items() if k != "rtf"}
            rows = values["utterances"]
            values["utterances"] = [dict(zip(names, row, strict=True)) for row in rows]
            return record(cls, values, source)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{source}: not a result of this version: {error}") from error


def utterance_results(scores: Scores) -> tuple[UtteranceResult, ...]:
    """Return the errors of every utterance, in the order scored."""
    return tuple(
        UtteranceResult(w.id, w.counts.length, w.counts.errors, c.counts.length, c.counts.errors)
        for w, c in zip(scores.words.utterances, scores.chars.utterances, strict=True)
    )


def save_results(path: Path, results: Sequence[Results]) -> None:
    """Write the results of one experiment to ``results.json``, atomically."""
    write_json(path, {"format": FORMAT, "results": [result.to_json() for result in results]})


def load_results(path: Path) -> list[Results]:
    """Read ``results.json``.

    Raises:
        DataError: missing, cut or of another format.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; decode first (stage 5)")
    try:
        document = read_json(path)
    except DocumentError as error:
        raise DataError(f"{error}; decode again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise DataError(f"{path}: format {found}, want {FORMAT}; decode again")
    rows = document.get("results")
    if not isinstance(rows, list):
        raise DataError(f"{path}: no list of results in it; decode again")
    return [Results.from_json(values, str(path)) for values in rows]


def machine(device: torch.device) -> str:
    """Name the kind of processor that ``device`` is, never the machine: GPU or CPU model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    # ARM processors have no model name there
    return names[0] if names else platform.machine()


def _finite(value: float) -> float | None:
    # JSON has neither NaN nor infinity
    return value if math.isfinite(value) else None
