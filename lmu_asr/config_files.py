"""Configurations as files: variants built on others, overrides, checks, YAML.

A variant is one YAML file with a ``base:`` list of files that it builds on. Unknown keys, wrong
types and values out of range raise :class:`ConfigError` naming the file, the key and the closest
known one. The resolved configuration is written beside everything it made. A value is text or a
number and nothing else: ``${...}`` is never looked up, neither in a file nor in ``--set``. Where an
option is text, a value stays as it is written: ``0123``, ``1e3`` and ``no`` are texts there.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmu_asr.config import CommonModelConfig, Config, ModelConfig, attribute, options, schema
from lmu_asr.errors import ConfigError
from lmu_asr.files import atomic_write_text
from lmu_asr.old_options import new_keys, renamed, say_renamed
from lmu_asr.options import Option
from lmu_asr.registry import REGISTRIES, Registry
from lmu_asr.yaml_files import dump_yaml, parse_yaml, read_yaml

MOST_BASES = 50  # files that one variant builds on, counted each time they are named
# A private character keeps OmegaConf from reading more than text: it would look up what stands in
# "${...}", in the environment too, and take "???" for no value at all.
_SPECIAL = {"${": "\uf8ff{", "???": "\uf8ff?"}
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
    layers: list[tuple[str, dict[str, Any]]] = []
    for file in [path, *on_top] if path else on_top:
        for number, (source, values) in enumerate(_sources(Path(cast(str, file)), ())):
            if number > MOST_BASES:
                raise ConfigError(f"{file}: builds on more than {MOST_BASES} files")
            layers.append((str(source), values))
    return _merged(layers, overrides, str(path) if path else "--set")


def override_keys(overrides: Sequence[str], model: ModelConfig | None = None) -> set[str]:
    """Return the keys of ``key=value`` overrides; of old names, those that they have in ``model``."""
    chosen = (model.encoder, model.head) if model else ()
    keys = (override.partition("=")[0] for override in overrides)
    return {new for key in keys for new in new_keys(key, chosen)}


def config_from_dict(values: Mapping[str, Any], source: str) -> Config:
    """Build a configuration from nested dictionaries; ``source`` names them in errors."""
    return _merged([(source, _read(values, source))], (), source)


def model_from_dict(values: Any, source: str) -> ModelConfig:
    """Rebuild from :meth:`ModelConfig.to_dict`, or from what an earlier version saved.

    Raises:
        ConfigError: unknown key, wrong type, value out of range.
    """
    return config_from_dict({"model": values}, source).model


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the whole configuration as plain dictionaries and lists."""
    return config.to_dict()


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration as YAML, atomically."""
    atomic_write_text(path, dump_yaml(config_to_dict(config)))


def _merged(
    layers: Sequence[tuple[str, dict[str, Any]]], overrides: Sequence[str], source: str
) -> Config:
    """Lay files on top of each other, then overrides; ``source`` names the whole in errors."""
    choosing = [o for o in overrides if o.partition("=")[0] in CHOOSING]
    values = [*(values for _, values in layers), *map(_parse_override, choosing)]
    chosen = {registry.key: _chosen(registry, values) for registry in REGISTRIES}
    others = {
        name for registry in REGISTRIES for name in registry.names() if name != chosen[registry.key]
    }
    merged = _structured(schema())
    for where, layer in layers:
        merged = _merge(merged, _without(layer, others), where)
    new = [_today(override, chosen) for override in overrides]
    for override in new:
        merged = _merge(merged, _parse_override(override), f"--set {override}")
    return _checked(merged, source, override_keys(new))


CHOOSING = tuple(f"model.{registry.key}" for registry in REGISTRIES)


def _chosen(registry: Registry, layers: Iterable[Mapping[str, Any]]) -> str:
    """The encoder or head that the last layer names, else the default one."""
    name = str(getattr(CommonModelConfig, registry.key))
    for values in layers:
        model = values.get("model")
        found = model.get(registry.key) if isinstance(model, dict) else None
        name = found if isinstance(found, str) else name
    return name


def _without(values: dict[str, Any], others: Collection[str]) -> dict[str, Any]:
    """Leave out the options of encoders and heads that are not chosen: files for all may have them."""
    model = values.get("model")
    if not isinstance(model, dict):
        return values
    return {**values, "model": {k: v for k, v in model.items() if k not in others}}


def _today(override: str, chosen: Mapping[str, str]) -> str:
    """Return ``key=value`` under today's name.

    Raises:
        ConfigError: the option is one of an encoder or head that is not chosen.
    """
    key, sep, text = override.partition("=")
    new = (new_keys(key, chosen.values()) or new_keys(key))[0]
    section, _, name = new.rpartition(".")[0].partition(".")
    for registry in REGISTRIES:
        own = chosen[registry.key]
        if section == "model" and name in registry.names() and name != own:
            raise ConfigError(
                f"--set {override}: an option of model.{registry.key}={name}, but {own} is chosen: "
                f"leave it out, or set model.{registry.key}={name}"
            )
    if new != key:
        say_renamed("--set", key, (new,))
    return new + sep + text


@functools.cache
def _structured(kind: type) -> DictConfig:
    """The defaults; merging copies them, and making them takes longer."""
    config = cast(DictConfig, OmegaConf.structured(kind))
    _writable(config)
    return config


def _writable(node: Any) -> None:
    # OmegaConf makes frozen dataclasses read-only, and merging into those fails
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _writable(child)


def _sources(path: Path, seen: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the bases of ``path`` first, then its own values."""
    if path in seen:
        raise ConfigError(f"{path}: base files form a circle: {' -> '.join(map(str, seen))}")
    values = _read_values(path, f" (base of {seen[-1]})" if seen else "")
    for base in _bases(values.pop("base", None), path):
        yield from _sources((path.parent / base).resolve(), (*seen, path))
    yield path, _read(values, str(path))


def _read(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check the keys of one file, and give them today's names."""
    _check_sections(values, source)
    return _known_keys(renamed(values, source), source)


def _check_sections(values: Mapping[str, Any], source: str) -> None:
    """Refuse a file that names its encoder or head and sets options of another."""
    model = values.get("model")
    if not isinstance(model, dict):
        return
    for registry in REGISTRIES:
        own = model.get(registry.key)
        wrong = [name for name in registry.names() if own and name != own and model.get(name)]
        if wrong:
            raise ConfigError(
                f"{source}: model.{wrong[0]}: options of model.{registry.key}={wrong[0]}, but this "
                f"file chooses {own}: leave them out"
            )


def _bases(value: Any, path: Path) -> list[str]:
    bases = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(bases, list) or not all(isinstance(b, str) and b for b in bases):
        raise ConfigError(f"{path}: base={value!r}: want a list of files, such as [default.yaml]")
    for base in bases:
        if "\0" in base or len(base) > 1000:
            raise ConfigError(f"{path}: base={base[:50]!r}: no name of a file")
    return bases


def _read_values(path: Path, named: str = "") -> dict[str, Any]:
    try:
        found = path.is_file()
    except OSError as error:  # a name that is too long
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not found:
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.yaml")])
        hint = f"; did you mean {near[0]}.yaml?" if near else ""
        raise ConfigError(f"{path}: no such configuration{named}{hint}")
    values = read_yaml(path, ConfigError, _texts())
    if not isinstance(values, dict) and values is not None:
        raise ConfigError(f"{path}: want a mapping of keys to values")
    return values or {}


def _parse_override(override: str) -> dict[str, Any]:
    """Return nested dictionaries of one ``key=value``; the value is YAML, but text as it stands."""
    key, sep, text = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"--set {override}: want key=value")
    kinds = {option.key: option.type for option in options()}
    if key not in kinds:
        raise _no_option(key, text, "--set")
    quoted = text[:1] in ("'", '"') or text in ("null", "~")
    value: Any = text  # as it stands: 2024_01 is a name, no number
    if quoted or kinds[key] != "str":
        texts = ("",) if key in _texts() else ()
        value = parse_yaml(text, f"--set {override}", ConfigError, texts)
    if fault := _fault(kinds[key], value):
        raise ConfigError(f"--set {override}: {fault}")
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast("dict[str, Any]", value)


def _merge(base: DictConfig, values: dict[str, Any], source: str) -> DictConfig:
    try:
        return cast(DictConfig, OmegaConf.merge(base, OmegaConf.create(_hidden(values))))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise _named(error, source) from error


def _checked(merged: DictConfig, source: str, overridden: Collection[str] = ()) -> Config:
    """Return the configuration once every value is within its limits."""
    try:
        whole = cast(Config, _shown(OmegaConf.to_object(merged)))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise _named(error, source) from error
    _check_limits(whole, source, overridden)
    return _with_chosen(whole)


def _with_chosen(whole: Config) -> Config:
    """Return the configuration with the sections of the chosen encoder and head alone."""
    values = {item.name: getattr(whole, item.name) for item in fields(Config)}
    common = {item.name: getattr(whole.model, item.name) for item in fields(CommonModelConfig)}
    for registry in REGISTRIES:
        common[f"{registry.key}_options"] = getattr(whole.model, common[registry.key])
    return Config(**{**values, "model": ModelConfig(**common)})


def _named(error: Exception, source: str) -> ConfigError:
    key = getattr(error, "full_key", None) or ""
    first = (str(error).splitlines() or [repr(error)])[0]
    return ConfigError(_shown(f"{source}: {key}: {first}"))


def _hidden(value: Any) -> Any:
    """Hide from OmegaConf what is more than text to it."""
    if isinstance(value, dict):
        return {key: _hidden(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    if isinstance(value, str):
        for plain, hidden in _SPECIAL.items():
            value = value.replace(plain, hidden)
    return value


def _shown(value: Any) -> Any:
    """Undo :func:`_hidden`, in dataclasses too."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _shown(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if isinstance(value, str):
        for plain, hidden in _SPECIAL.items():
            value = value.replace(hidden, plain)
    return value


def _texts() -> frozenset[str]:
    """Keys of texts and of lists of texts."""
    return frozenset(o.key for o in options() if o.type in ("str", "list[str]"))


def _known_keys(values: Mapping[str, Any], source: str, prefix: str = "") -> dict[str, Any]:
    """Return nested values without empty sections.

    Raises:
        ConfigError: an unknown key, a section that is none, an option without a value.
    """
    kinds, sections = {option.key: option.type for option in options()}, _sections()
    found = {}
    for key, value in values.items():
        full = f"{prefix}{key}"
        if full in sections and value is None:  # all its lines may be comments
            continue
        if full in sections and isinstance(value, dict):
            value = _known_keys(value, source, f"{full}.")
        elif full not in kinds or "." in str(key):
            raise _no_option(full, value, source)
        elif fault := _fault(kinds[full], value):
            raise ConfigError(f"{source}: {full}={value!r:.100}: {fault}")
        found[key] = value
    return found


def _sections() -> set[str]:
    parts = (option.key.split(".") for option in options())
    return {".".join(words[:size]) for words in parts for size in range(1, len(words))}


def _no_option(key: str, value: Any, source: str) -> ConfigError:
    """The error of a key that is no option as it stands."""
    known = [option.key for option in options()]
    if key in known:  # dotted, in a file
        return ConfigError(f"{source}: '{key}' stands nested in a file: {_nested(key)}")
    if key in _sections():
        first = next(k for k in known if k.startswith(f"{key}."))
        want = f"{first}=..." if source == "--set" else _nested(first)
        return ConfigError(
            f"{source}: {key}={value!r:.100}: '{key}' is a section; name an option in it: {want}"
        )
    hint = _closest(key, [*known, *_sections()])
    return ConfigError(
        f"{source}: unknown key '{key}'" + (f"; did you mean '{hint}'?" if hint else "")
    )


def _nested(key: str) -> str:
    """How a dotted key stands in a file."""
    first, _, rest = key.partition(".")
    return f"{first}: {{{_nested(rest)}}}" if rest else f"{first}: ..."


def _fault(kind: str, value: Any) -> str:
    """What is wrong with the shape of an option's value; empty where nothing is."""
    if value is None:
        empty = ", or write '' for an empty text" if kind == "str" else ""
        return f"no value; leave the option out to keep its default{empty}"
    is_list = kind.startswith("list")
    if is_list and not isinstance(value, (list, tuple)):
        return "want a list in square brackets, such as [a] or [a, b]"
    if not is_list and isinstance(value, (list, tuple, dict)):
        return (
            f"want one value of type {kind}, not {'keys' if isinstance(value, dict) else 'a list'}"
        )
    return ""


def _closest(key: str, known: Sequence[str]) -> str | None:
    """The known key that the user may mean: another toolkit's word for it, or the same last part."""
    last = key.rsplit(".", 1)[-1]
    same = [k for k in known if k.rsplit(".", 1)[-1] == last]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return next(iter([*same, *filter(None, [SYNONYMS.get(last)]), *near]), None)


def _check_limits(config: Config, source: str, overridden: Collection[str] = ()) -> None:
    for option in options():
        node = option_value(config, option.key)
        place = "--set" if option.key in overridden else source
        for value in node if isinstance(node, list) else [node]:
            _check_value(option, value, place)
        least, most = option.limits.get("items", (0, math.inf))
        if isinstance(node, list) and not least <= len(node) <= most:
            wanted = f"{least}" if least == most else f"{least} or more"
            where = f"{place}{' ' if place == '--set' else ': '}{option.key}={node}"
            raise ConfigError(f"{where}: want {wanted} value(s)")


def option_value(config: Config, key: str) -> Any:
    """Return the value of a dotted key; None for options of an encoder or head that is not chosen."""
    node: Any = config
    for part in key.split("."):
        node = getattr(node, attribute(node, part), None)
    return node


def _check_value(option: Option, value: Any, source: str) -> None:
    limits = option.limits
    shown = value if str(value).isprintable() else repr(value)
    where = f"{source}{' ' if source == '--set' else ': '}{option.key}={shown}"
    if value is None or isinstance(value, (dict, list)):
        raise ConfigError(f"{where}: want a plain value")  # in a list, OmegaConf takes {} for one
    if isinstance(value, str) and (half := _half_pair(option, value)):
        raise ConfigError(
            f"{where}: {half!a} is half of a surrogate pair, no character: want text in UTF-8"
        )
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


def _half_pair(option: Option, value: str) -> str:
    """Half of a surrogate pair in a text; in the name of a file some stand for bytes that are not UTF-8."""
    names_a_file = option.path is not None or option.key == "overrides"
    found = re.search(
        r"[\ud800-\udc7f\udd00-\udfff]" if names_a_file else r"[\ud800-\udfff]", value
    )
    return found[0] if found else ""
