"""Choice of decoding scales on the dev split.

Nothing here takes a test split: the sweep sees dev log-probabilities and dev transcripts, and what
it chooses is frozen before any test utterance is searched.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lmu_asr.config import DecodeConfig
from lmu_asr.errors import ConfigError, DataError
from lmu_asr.files import read_json, write_json
from lmu_asr.scoring.score import ErrorCounts

SCALE_NAMES = ("acoustic_scale", "lm_scale", "blank_penalty")
# A search is swept over the scales that can change its best path, and no others.
SCALES_OF_METHOD: dict[str, tuple[str, ...]] = {
    "greedy": ("blank_penalty",),
    "H": ("blank_penalty",),
    "HL": ("acoustic_scale", "blank_penalty"),
    "prefix_beam": ("lm_scale", "blank_penalty"),
    "HLG": SCALE_NAMES,
    "nbest": SCALE_NAMES,
    "nbest_rescore": SCALE_NAMES,
    "lattice_rescore": SCALE_NAMES,
}


@dataclass(frozen=True)
class Scales:
    """The scales of one search."""

    acoustic_scale: float = 1.0
    lm_scale: float = 1.0
    blank_penalty: float = 0.0


@dataclass(frozen=True)
class Trial:
    """One point of the sweep and its error rate on dev, in per cent."""

    scales: Scales
    rate: float


@dataclass(frozen=True)
class Tuned:
    """What the sweep of one method chose, and every trial behind it."""

    method: str
    split: str
    scales: Scales
    rate: float
    trials: tuple[Trial, ...] = field(default=())

    @property
    def chosen(self) -> dict[str, float]:
        """The scales that this method uses, by name."""
        return {name: getattr(self.scales, name) for name in SCALES_OF_METHOD[self.method]}


def scale_grid(method: str, config: DecodeConfig) -> list[Scales]:
    """Return the scales to try for ``method``, smallest first; those it does not use stay neutral.

    Raises:
        ConfigError: unknown method, or an empty list of scales.
    """
    if method not in SCALES_OF_METHOD:
        raise ConfigError(f"decode.methods: {method!r} is not one of {', '.join(SCALES_OF_METHOD)}")
    choices = {
        "acoustic_scale": config.acoustic_scales,
        "lm_scale": config.lm_scales,
        "blank_penalty": config.blank_penalties,
    }
    names = SCALES_OF_METHOD[method]
    for name in names:
        if not choices[name]:
            plural = "blank_penalties" if name == "blank_penalty" else f"{name}s"
            raise ConfigError(f"decode.{plural}: empty, {method} needs at least one value")
    points = itertools.product(*(sorted(set(choices[name])) for name in names))
    return [Scales(**dict(zip(names, point, strict=True))) for point in points]


def tune_scales(
    method: str,
    split: str,
    grid: Sequence[Scales],
    score_dev: Callable[[Scales], ErrorCounts],
) -> Tuned:
    """Search dev with every point of ``grid`` and take the lowest error rate.

    Of equal rates the smallest scales win, in the order acoustic, language model, blank penalty.

    Args:
        method: the search.
        split: name of the dev split, for the record.
        grid: points to try, such as :func:`scale_grid` gives.
        score_dev: searches dev with given scales and counts its errors.
    """
    if not grid:
        raise ConfigError(f"{method}: no scales to try")
    trials = []
    for scales in grid:
        rate = score_dev(scales).rate
        trials.append(Trial(scales, rate))
        if len(grid) > 1:
            logging.info(
                "%s on %s: %s: %.2f %%", method, split, describe_scales(method, scales), rate
            )
    best = min(trials, key=_order)
    for name in _at_edge(best.scales, grid):
        value = getattr(best.scales, name)
        logging.info("%s: best %s %g is the last of those tried; try more", method, name, value)
    return Tuned(method, split, best.scales, best.rate, tuple(trials))


def _at_edge(scales: Scales, grid: Sequence[Scales]) -> list[str]:
    """Names of the scales whose chosen value is the least or greatest of three or more tried."""
    edges = []
    for name in SCALE_NAMES:
        values = sorted({getattr(point, name) for point in grid})
        if len(values) > 2 and getattr(scales, name) in (values[0], values[-1]):
            edges.append(name)
    return edges


def _order(trial: Trial) -> tuple[float, ...]:
    scales = trial.scales
    return trial.rate, scales.acoustic_scale, scales.lm_scale, abs(scales.blank_penalty)


def describe_scales(method: str, scales: Scales) -> str:
    """Name and value of each scale that the method uses."""
    return ", ".join(f"{name} {getattr(scales, name):g}" for name in SCALES_OF_METHOD[method])


def save_scales(path: Path, tuned: Mapping[str, Tuned], keys: Mapping[str, str]) -> None:
    """Write what was chosen to ``scales.json`` with the fingerprints ``keys`` it is valid for."""
    methods = {method: _plain(asdict(item)) for method, item in tuned.items()}
    write_json(path, {"keys": dict(keys), "methods": methods})


def _plain(values: dict) -> dict:
    """Write an infinite rate (no reference) as null, which JSON knows."""
    rows = [values, *values["trials"]]
    for row in rows:
        row["rate"] = row["rate"] if math.isfinite(row["rate"]) else None
    return values


def load_scales(path: Path) -> dict[str, Tuned]:
    """Read ``scales.json``.

    Raises:
        DataError: not a file that :func:`save_scales` wrote.
    """
    try:
        methods = read_json(path)["methods"]
        return {name: _tuned(values) for name, values in methods.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a file of scales ({error}); decode again") from error


def _tuned(values: dict) -> Tuned:
    trials = tuple(Trial(Scales(**t["scales"]), _rate(t["rate"])) for t in values["trials"])
    scales, rate = Scales(**values["scales"]), _rate(values["rate"])
    return Tuned(values["method"], values["split"], scales, rate, trials)


def _rate(value: float | None) -> float:
    return math.inf if value is None else value
