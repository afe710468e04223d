"""Choice of decoding scales on the dev split.

Nothing here takes a test split: the sweep sees dev log-probabilities and dev transcripts, and what
it chooses is frozen before any test utterance is searched.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lmu_asr.config import DecodeConfig
from lmu_asr.decoding.methods import find_method
from lmu_asr.errors import ConfigError, DataError
from lmu_asr.files import read_json, write_json
from lmu_asr.records import record
from lmu_asr.scoring.score import ErrorCounts

EXTENSIONS = 6
"""Values that an axis may gain past its ends."""


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
        return {name: getattr(self.scales, name) for name in find_method(self.method).scales}


def scale_axes(method: str, config: DecodeConfig) -> dict[str, tuple[float, ...]]:
    """Return the values to begin with of each scale that ``method`` uses, smallest first.

    Raises:
        ConfigError: unknown method, or an empty list of scales.
    """
    choices = {
        "acoustic_scale": config.acoustic_scales,
        "lm_scale": config.lm_scales,
        "blank_penalty": config.blank_penalties,
    }
    names = find_method(method).scales
    for name in names:
        if not choices[name]:
            plural = "blank_penalties" if name == "blank_penalty" else f"{name}s"
            raise ConfigError(f"decode.{plural}: empty, {method} needs at least one value")
    return {name: tuple(sorted(set(choices[name]))) for name in names}


def tune_scales(
    method: str,
    split: str,
    axes: Mapping[str, Sequence[float]],
    score_dev: Callable[[Scales], ErrorCounts],
) -> Tuned:
    """Search dev along one scale after the other and take the lowest error rate.

    First every value of an axis is tried, then, again and again, the neighbours of the best point
    (also those in two scales at once, as penalty and LM scale rise together), until none is better.
    An axis goes on past its ends while that helps; one of a single value is fixed. Of equal rates
    the smallest scales win, in the order acoustic, language model, penalty.

    Args:
        method: the search.
        split: name of the dev split, for the record.
        axes: values of each scale to begin with, such as :func:`scale_axes` gives.
        score_dev: searches dev with given scales and counts its errors.
    """
    sweep = _Sweep(method, split, axes, score_dev)
    for name, values in sweep.axes.items():
        for value in list(values):
            sweep.try_at(**{name: value})
    # at 0 % nothing can be better
    while sweep.best.rate > 0.0 and sweep.climb():
        pass
    best = sweep.best
    return Tuned(method, split, best.scales, best.rate, tuple(sweep.trials.values()))


class _Sweep:
    """The points tried so far, and the best of them."""

    def __init__(
        self,
        method: str,
        split: str,
        axes: Mapping[str, Sequence[float]],
        score_dev: Callable[[Scales], ErrorCounts],
    ) -> None:
        self.method, self.split, self.score_dev = method, split, score_dev
        self.axes = {name: sorted(values) for name, values in axes.items() if len(values) > 1}
        self.most = {name: len(values) + EXTENSIONS for name, values in self.axes.items()}
        self.trials: dict[Scales, Trial] = {}
        middle = {name: sorted(values)[(len(values) - 1) // 2] for name, values in axes.items()}
        self.best = self._tried(Scales(**middle))

    def try_at(self, **values: float) -> bool:
        """Try the best point with other values of some scales; true if that is better."""
        found = self._tried(replace(self.best.scales, **values))
        better = _order(found) < _order(self.best)
        self.best = found if better else self.best
        return better

    def climb(self) -> bool:
        """Try the neighbours of the best point, along one scale and along two; true if one is better."""
        for name in self.axes:
            self._extend(name)
        near = {name: self._neighbours(name) for name in self.axes}
        moves = [{name: value} for name, values in near.items() for value in values]
        for one, two in itertools.combinations(near, 2):
            moves += [{one: v, two: w} for v, w in itertools.product(near[one], near[two])]
        # stops at the first better point, whose own neighbours are tried next
        return any(self.try_at(**move) for move in moves)

    def _neighbours(self, name: str) -> list[float]:
        values = self.axes[name]
        at = values.index(getattr(self.best.scales, name))
        return values[max(0, at - 1) : at] + values[at + 1 : at + 2]

    def _extend(self, name: str) -> None:
        """Add a value past the end that the best point lies at, as far away as the last but one."""
        values, at = self.axes[name], getattr(self.best.scales, name)
        if at not in (values[0], values[-1]) or not math.isfinite(self.best.rate):
            return
        if len(values) >= self.most[name]:
            text = "%s: best %s %g is the last of those tried; try more"
            logging.info(text, self.method, name, at)
            return
        if at == values[-1]:
            # rounded, so that steps of 0.1 do not collect digits
            values.append(round(2 * at - values[-2], 6))
        elif name == "blank_penalty" or 2 * at > values[1]:
            values.insert(0, round(2 * at - values[1], 6))
        # halved, since an acoustic or LM scale must not become negative
        elif at > 0.0:
            values.insert(0, round(at / 2, 6))

    def _tried(self, scales: Scales) -> Trial:
        if scales not in self.trials:
            self.trials[scales] = Trial(scales, self.score_dev(scales).rate)
            if self.axes:
                text, rate = describe_scales(self.method, scales), self.trials[scales].rate
                logging.info("%s on %s: %s: %.2f %%", self.method, self.split, text, rate)
        return self.trials[scales]


def _order(trial: Trial) -> tuple[float, ...]:
    scales = trial.scales
    return trial.rate, scales.acoustic_scale, scales.lm_scale, abs(scales.blank_penalty)


def describe_scales(method: str, scales: Scales) -> str:
    """Name and value of each scale that the method uses."""
    return ", ".join(f"{name} {getattr(scales, name):g}" for name in find_method(method).scales)


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
        return {name: record(Tuned, _ranked(values), str(path)) for name, values in methods.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a file of scales ({error}); decode again") from error


def _ranked(values: dict) -> dict:
    """Undo :func:`_plain`: a rate that is null is infinite."""
    rows = [values, *values["trials"]]
    rated = [{**row, "rate": math.inf if row["rate"] is None else row["rate"]} for row in rows]
    return {**rated[0], "trials": rated[1:]}
