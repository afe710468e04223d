"""Names that options had in earlier versions, and what became of them.

Old YAML files, ``--set``, checkpoints and saved models are read with their old names.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from lmu_asr.errors import ConfigError

# Old key: new keys. An option that several encoders had is now one of each.
RENAMED: dict[str, tuple[str, ...]] = {
    "model.memory_order": (
        *("model.lmu.memory_order", "model.lmu_cell.memory_order"),
        "model.lmu_parallel.memory_order",
    ),
    "model.thetas": (
        *("model.lmu.thetas", "model.lmu_cell.layer_thetas"),
        "model.lmu_parallel.layer_thetas",
    ),
    "model.trainable_theta": ("model.lmu.trainable_theta", "model.lmu_parallel.trainable_theta"),
    "model.memory_form": ("model.lmu.memory_form", "model.lmu_parallel.memory_form"),
    "model.hidden": ("model.lmu_cell.hidden", "model.lmu_parallel.hidden", "model.lstm.hidden"),
    "model.expansion": ("model.lmu.expansion",),
    "model.conv_kernel": ("model.lmu.conv_kernel",),
    "model.lookahead": ("model.lmu.lookahead",),
    "model.num_heads": ("model.transformer.num_heads",),
    **{
        f"train.{name}": (f"model.ctc.{name}",)
        for name in (
            *("loss", "mmi_order", "mmi_ctc", "cr_ctc", "inter_ctc", "inter_ctc_layers"),
            *("label_smoothing", "anneal_steps"),
        )
    },
}


def new_keys(key: str, chosen: Iterable[str] = ()) -> tuple[str, ...]:
    """Today's keys of an option; of old ones those alone of the sections ``chosen``, if any are given."""
    keys = RENAMED.get(key, (key,))
    sections = {f"model.{name}" for name in chosen}
    if key not in RENAMED or not sections:
        return keys
    return tuple(new for new in keys if new.rpartition(".")[0] in sections)


def renamed(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return nested values under today's names, and say so once in one line.

    Old options of encoders and heads that the values themselves do not choose are left out.

    Args:
        values: of one YAML file or one saved model.
        source: names them in errors and in the line.

    Raises:
        ConfigError: an option stands under its old and its new name.
    """
    old = [key for key in RENAMED if _has(values, key)]
    if not old:
        return dict(values)
    out = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    model = out["model"] = out.get("model") or {}
    chosen = _chosen(model)
    for key in old:
        section, _, name = key.partition(".")
        value = out[section].pop(name)
        for new in new_keys(key, chosen):
            _put(model, new, value, f"{source}: {key}")
    if isinstance(out.get("overrides"), list):
        out["overrides"] = [_renamed_override(item, chosen) for item in out["overrides"]]
    say_renamed(source, old[0], new_keys(old[0], chosen), len(old) - 1)
    return out


def _put(model: dict[str, Any], key: str, value: Any, where: str) -> None:
    _, section, name = key.split(".")
    given = model.get(section) or {}
    if not isinstance(given, dict) or name in given:
        raise ConfigError(f"{where} is now {key}, which stands there too")
    model[section] = {**given, name: value}


def _renamed_override(override: Any, chosen: Iterable[str]) -> Any:
    """``key=value`` of a saved configuration, as tables show it."""
    key, sep, value = str(override).partition("=")
    return new_keys(key, chosen)[0] + sep + value if key in RENAMED else override


def _has(values: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.partition(".")
    part = values.get(section)
    other = values.get("model")
    return isinstance(part, dict) and name in part and isinstance(other, (dict, type(None)))


def _chosen(model: Mapping[str, Any]) -> list[str]:
    """Sections of the encoder and head that a file names; none: they are for it to be laid on."""
    if not isinstance(model.get("encoder"), str):
        return []
    return [model["encoder"], str(model.get("head", "ctc"))]


@functools.cache
def say_renamed(source: str, old: str, new: tuple[str, ...], others: int = 0) -> None:
    """Say once that a file or ``--set`` has an old name; ``others`` counts further ones."""
    now = f"is now {' or '.join(new)}" if new else "is not used by its encoder"
    more = f", and {others} more have other names" if others else ""
    # a logger of its own prints the bare line where no program has set logging up
    logging.getLogger(__name__).warning("%s: %s %s%s (docs/options.md)", source, old, now, more)


def renamed_flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted key under today's names, those of all encoders and heads."""
    return {new: value for key, value in values.items() for new in new_keys(key)}
