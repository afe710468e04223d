"""Files and directories that a configuration names: made absolute, and told apart from words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmu_asr.config import Config, attribute, options
from lmu_asr.config_files import option_value

PROJECT = Path(__file__).resolve().parents[1]


def path_options() -> dict[str, tuple[str, ...]]:
    """Options that name a file or directory, with the words that are no path."""
    return {option.key: option.path for option in options() if option.path is not None}


def is_path(key: str, value: str) -> bool:
    """Whether ``value`` names a file or directory of this machine: no address, no other word."""
    words = path_options().get(key)
    return words is not None and bool(value) and "://" not in value and value not in words


def named_paths(config: Config) -> dict[str, Path]:
    """Return every file or directory that the configuration names, by its key."""
    values = {key: option_value(config, key) for key in path_options()}
    return {key: Path(value) for key, value in values.items() if value and is_path(key, value)}


def absolute_paths(config: Config, keys: Collection[str], base: Path, other_base: Path) -> Config:
    """Make the paths of a configuration absolute.

    Args:
        keys: those whose relative paths mean ``base``; all others mean ``other_base``.
        base, other_base: absolute directories.
    """
    for key, path in named_paths(config).items():
        place = (base if key in keys else other_base) / path.expanduser()
        config = with_value(config, key, str(place))
    return config


def with_value(config: Any, key: str, value: Any) -> Any:
    """Return the configuration, or a part of it, with one value changed; ``key`` is dotted."""
    part, _, rest = key.partition(".")
    name = attribute(config, part)
    return replace(
        config, **{name: with_value(getattr(config, name), rest, value) if rest else value}
    )


def portable(key: str, value: Any) -> Any:
    """Return a path below the project relative to it, any other value as it is.

    What a run is made from is compared so: a project that is moved keeps its stamps and runs.
    """
    if isinstance(value, str) and is_path(key, value) and Path(value).is_relative_to(PROJECT):
        return str(Path(value).relative_to(PROJECT))
    return value


def shaping(config: Config, *stages: str) -> dict[str, Any]:
    """The options that shape what any of ``stages`` makes (see :func:`lmu_asr.options.opt`), by key."""
    values = flat_options(config)
    keys = (o.key for o in options() if o.is_of(*stages))
    return {key: portable(key, values[key]) for key in keys if key in values}


def flat_options(config: Config) -> dict[str, Any]:
    """The value of every option by its dotted key."""
    return _flat(config.to_dict())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
