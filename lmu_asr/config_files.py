"""Configurations as files: variants built on others, overrides, checks, YAML.

A variant is one YAML file with a ``base:`` list of files that it builds on. Unknown keys, wrong
types and values out of range raise :class:`ConfigError` naming the file, the key and the closest
known one. The resolved configuration is written beside everything it made.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmu_asr.config import Config, Option, options
from lmu_asr.errors import ConfigError
from lmu_asr.files import atomic_write_text

SYNONYMS = {
    "batch_size": "train.max_duration",
    "d_model": "model.dim",
    "hidden_size": "model.dim",
    "layers": "model.num_layers",
    "learning_rate": "train.lr",
    "max_epoch": "train.epochs",
    "num_epochs": "train.epochs",
    "vocab_size": "lang.bpe_vocab_size",
}


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    on_top: Sequence[str | Path] = (),
) -> Config:
    """Read a YAML file with its bases, others ``on_top``, apply ``key=value`` overrides; check all.

    Raises:
        ConfigError: unknown key, wrong type, value out of range, missing or unreadable file.
    """
    merged = _structured()
    for file in [path, *on_top] if path else on_top:
        for source, values in _sources(Path(cast(str, file)), ()):
            merged = _merge(merged, values, str(source))
    for override in overrides:
        merged = _merge(merged, _parse_override(override), f"--set {override}")
    config = cast(Config, OmegaConf.to_object(merged))
    _check_limits(config, str(path) if path else "--set", override_keys(overrides))
    return config


def override_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys of ``key=value`` overrides."""
    return {override.partition("=")[0] for override in overrides}


def config_from_dict(values: dict[str, Any], source: str) -> Config:
    """Build a configuration from nested dictionaries; ``source`` names them in errors."""
    _check_keys(values, source)
    config = cast(
        Config, OmegaConf.to_object(_merge(_structured(), OmegaConf.create(values), source))
    )
    _check_limits(config, source)
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the whole configuration as plain dictionaries and lists."""
    return asdict(config)


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration as YAML, atomically."""
    atomic_write_text(
        path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)
    )


def _structured() -> DictConfig:
    config = cast(DictConfig, OmegaConf.structured(Config))
    _writable(config)
    return config


def _writable(node: Any) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _writable(child)


def _sources(path: Path, seen: tuple[Path, ...]) -> Iterator[tuple[Path, DictConfig]]:
    """Yield the bases of ``path`` first, then its own values."""
    if path in seen:
        raise ConfigError(f"{path}: base files form a circle: {' -> '.join(map(str, seen))}")
    values = _read_yaml(path)
    bases = values.pop("base", None) or []
    for base in [bases] if isinstance(bases, str) else list(bases):
        yield from _sources((path.parent / base).resolve(), (*seen, path))
    _check_keys(cast("dict[str, Any]", OmegaConf.to_container(values)), str(path))
    yield path, values


def _read_yaml(path: Path) -> DictConfig:
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.yaml")])
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{path}: no such configuration{hint}")
    try:
        values = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if isinstance(values, ListConfig) or not isinstance(values, DictConfig):
        raise ConfigError(f"{path}: want a mapping of keys to values")
    return values


def _parse_override(override: str) -> DictConfig:
    key, sep, text = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"--set {override}: want key=value")
    _check_keys({key: None}, "--set")
    quoted = text[:1] in ("'", '"') or text in ("null", "~")
    try:
        if quoted or next(o.type for o in options() if o.key == key) != "str":
            return OmegaConf.from_dotlist([override])
        values = OmegaConf.create()
        OmegaConf.update(values, key, text)  # as it stands: 2024_01 is a name, no number
        return values
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--set {override}: {str(error).splitlines()[0]}") from error


def _merge(base: DictConfig, values: DictConfig, source: str) -> DictConfig:
    try:
        return cast(DictConfig, OmegaConf.merge(base, values))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ""
        first = str(error).splitlines()[0]
        raise ConfigError(f"{source}: {key}: {first}") from error


def _check_keys(values: dict[str, Any], source: str, prefix: str = "") -> None:
    known = [option.key for option in options()]
    sections = {key.split(".")[0] for key in known if "." in key}
    for key, value in values.items():
        full = f"{prefix}{key}"
        if full in sections and isinstance(value, dict):
            _check_keys(value, source, f"{full}.")
        elif full not in known:
            hint = _closest(full, [*known, *sections])
            raise ConfigError(
                f"{source}: unknown key '{full}'" + (f"; did you mean '{hint}'?" if hint else "")
            )


def _closest(key: str, known: Sequence[str]) -> str | None:
    """The known key that the user may mean: another toolkit's word for it, or the same last part."""
    last = key.rsplit(".", 1)[-1]
    same = [k for k in known if k.rsplit(".", 1)[-1] == last]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return next(iter([*same, *filter(None, [SYNONYMS.get(last)]), *near]), None)


def _check_limits(config: Config, source: str, overridden: Collection[str] = ()) -> None:
    for option in options():
        node = option_value(config, option.key)
        for value in node if isinstance(node, list) else [node]:
            _check_value(option, value, "--set" if option.key in overridden else source)


def option_value(config: Config, key: str) -> Any:
    """Return the value of a dotted key."""
    node: Any = config
    for part in key.split("."):
        node = getattr(node, part)
    return node


def _check_value(option: Option, value: Any, source: str) -> None:
    limits = option.limits
    shown = value if str(value).isprintable() else repr(value)
    where = f"{source}{' ' if source == '--set' else ': '}{option.key}={shown}"
    if "choices" in limits and value not in limits["choices"]:
        near = difflib.get_close_matches(str(value), [str(c) for c in limits["choices"]], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{where}: want one of {', '.join(map(str, limits['choices']))}{hint}")
    if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
        raise ConfigError(f"{where}: want {limits.get('want', limits['pattern'])}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: want a finite number")
    if "min" in limits and value < limits["min"]:
        raise ConfigError(f"{where}: below the least allowed, {limits['min']}")
    if "max" in limits and value > limits["max"]:
        raise ConfigError(f"{where}: above the most allowed, {limits['max']}")
