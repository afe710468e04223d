"""Fine-tuning: weights to start from, parts that stay as they are, parts that learn slowly."""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from lmu_asr.checkpoints.checkpoint import load_checkpoint
from lmu_asr.errors import ConfigError
from lmu_asr.models.system import load_weights

HEAD = "head."


def start_from(model: nn.Module, source: str, tokens: str = "") -> None:
    """Copy the weights of a checkpoint into ``model``, normalisation of the input included.

    The output layer is left as it is, and that is said, where the checkpoint has other tokens: by
    their fingerprint where both are known, else by their number.

    Args:
        model: its output layer's parameters begin with ``head.``.
        source: checkpoint of training; of its weights the running average where it has one.
        tokens: fingerprint of the tokens of this run.

    Raises:
        CheckpointError: no whole checkpoint, or one of another encoder.
    """
    checkpoint = load_checkpoint(source)
    weights, own = dict(checkpoint.weights), model.state_dict()
    theirs = checkpoint.meta.get("identity", {}).get("tokens", "")
    head = [name for name in own if name.startswith(HEAD) and name in weights]
    sizes = {name: (len(weights[name]), len(own[name])) for name in head}
    other = [name for name, (before, now) in sizes.items() if before != now]
    if other or (head and tokens and theirs and tokens != theirs):
        # own values, since load_weights wants every name
        weights.update({name: own[name] for name in head})
        before, now = sizes[(other or head)[0]]
        logging.warning(
            "%s has other tokens (%d, here %d): the output layer starts from random weights",
            source,
            before,
            now,
        )
    load_weights(model, weights, source)
    logging.info("weights start from %s", source)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Keep the parameters that any of ``patterns`` (``*``, ``?``) fits as they are.

    Raises:
        ConfigError: a pattern fits no parameter, or no parameter is left to train.
    """
    if not patterns:
        return
    names = [name for pattern in patterns for name in _fitting(model, pattern, "train.freeze")]
    parameters = dict(model.named_parameters())
    for name in names:
        parameters[name].requires_grad_(False)
    trained = sum(p.numel() for p in parameters.values() if p.requires_grad)
    if trained == 0:
        raise ConfigError(f"train.freeze={list(patterns)}: leaves no parameter to train")
    total = sum(p.numel() for p in parameters.values())
    logging.info("frozen: %d of %d parameters", total - trained, total)


def with_lr_scales(
    groups: Iterable[dict[str, Any]], model: nn.Module, rules: Sequence[str]
) -> list[dict[str, Any]]:
    """Split an optimiser's parameter groups by the factor of their learning rate (``lr_scale``).

    Args:
        groups: groups with ``params``; other entries go to every part.
        model: names the parameters.
        rules: ``PATTERN=FACTOR``; the first that fits a name counts, the factor is else 1.

    Raises:
        ConfigError: a rule is not of that form, or fits no parameter.
    """
    if not rules:
        return list(groups)
    scales: dict[int, float] = {}
    parameters = dict(model.named_parameters())
    for rule in rules:
        pattern, factor = _parse_rule(rule)
        for name in _fitting(model, pattern, "train.lr_scales"):
            scales.setdefault(id(parameters[name]), factor)
    parts = []
    for group in groups:
        # torch keeps one learning rate a group, so a group is split by factor
        by_scale: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            by_scale.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
        parts += [{**group, "params": p, "lr_scale": scale} for scale, p in by_scale.items()]
    return parts


def _parse_rule(rule: str) -> tuple[str, float]:
    pattern, _, factor = rule.partition("=")
    try:
        scale = float(factor)
    except ValueError:
        # fails the check below, so that both faults get one message
        scale = -1.0
    if not pattern or not 0.0 <= scale < float("inf"):
        raise ConfigError(
            f"train.lr_scales: {rule!r}: want PATTERN=FACTOR, factor 0 or more, as encoder.*=0.1"
        )
    return pattern, scale


def _fitting(model: nn.Module, pattern: str, option: str) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    found = fnmatch.filter(names, pattern)
    if not found:
        # cutoff 0: a name is found however far it is, so the message always shows one
        near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
        raise ConfigError(
            f"{option}: {pattern!r} fits no parameter; there is, for one, {near[0]} (* fits anything)"
        )
    return found
