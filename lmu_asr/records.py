"""Dataclasses from plain JSON or YAML values, every type checked: no file is taken on trust."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from lmu_asr.errors import DocumentError

T = TypeVar("T")


def record(kind: type[T], values: Any, where: str, spare: bool = False) -> T:
    """Return the dataclass ``kind`` that ``values`` describe.

    Args:
        kind: a dataclass of numbers, texts, lists, tuples, dictionaries and other such dataclasses.
        values: what JSON or YAML gave.
        where: names the document in errors.
        spare: leave out keys that ``kind`` does not have (they are of another version).

    Raises:
        DocumentError: a missing or unknown key, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise DocumentError(f"{where}: want an object, got {_named(values)}")
    hints, needed = _fields(typing.cast(Any, kind))
    unknown = [key for key in values if key not in hints]
    if unknown and not spare:
        raise DocumentError(f"{where}: unknown key '{unknown[0]}'")
    missing = [name for name in needed if name not in values]
    if missing:
        raise DocumentError(f"{where}: lacks '{missing[0]}'")
    found = {
        name: _value(hints[name], value, f"{where}: {name}")
        for name, value in values.items()
        if name in hints
    }
    return kind(**found)


@functools.cache
def _fields(kind: type) -> tuple[dict[str, Any], list[str]]:
    """Types of the fields by name, and the fields without a default."""
    fields = [f for f in dataclasses.fields(kind) if f.init]
    hints = typing.get_type_hints(kind)
    unset = dataclasses.MISSING
    needed = [f.name for f in fields if f.default is unset and f.default_factory is unset]
    return {f.name: hints[f.name] for f in fields}, needed


def _value(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return (
            None
            if value is None
            else _value(next(p for p in parts if p is not _NONE), value, where)
        )
    if dataclasses.is_dataclass(hint):
        return record(typing.cast(type, hint), value, where)
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        items = [_value(parts[0], item, where) for item in value]
        return tuple(items) if origin is tuple else items
    if origin is dict and isinstance(value, dict):
        return {_value(parts[0], k, where): _value(parts[1], v, where) for k, v in value.items()}
    return _plain(hint, value, where)


_NONE = type(None)


def _plain(hint: Any, value: Any, where: str) -> Any:
    # a bool is an int to Python, and no one means it so
    right = (
        isinstance(hint, type)
        and isinstance(value, hint)
        and not (hint is int and isinstance(value, bool))
    )
    if right:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value, where)
    raise DocumentError(f"{where}: want {getattr(hint, '__name__', hint)}, got {_named(value)}")


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise DocumentError(f"{where}: a number of {value.bit_length()} bits") from None


def _named(value: Any) -> str:
    kind = type(value).__name__
    return kind if isinstance(value, (dict, list)) else f"{kind} {value!r}"
