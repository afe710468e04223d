"""How options are declared: a dataclass of :func:`opt` fields, and what documentation reads of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, cast, get_type_hints


def opt(default: Any, help: str, **limits: Any) -> Any:
    """Declare one option: its default, its help line and its limits.

    Limits: ``min``, ``max``, ``items`` (least and largest length of a list), ``choices`` (a function where they depend on what is installed), and
    ``pattern``, a regular expression of the whole value, with ``want``, the same in words. ``path``
    marks a file or directory of the user: its value is a tuple of the words that are no path.
    ``shapes`` names the stages whose outputs the option changes, and ``plan`` where it sizes the
    computing; left out, those of its section in :data:`SHAPES`. Stamps, resuming and plans all
    follow it.
    """
    metadata = {"help": help, **limits}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# Stages whose outputs the options of a section shape
SHAPES = {
    "seed": ("download", "train"),
    "corpus": ("download", "features", "decode"),
    "features": ("features", "train"),
    "lang": ("lang",),
    "lm": ("lang", "graph"),
    "graph": ("graph", "decode"),
    "model": ("train",),
    "augment": ("train",),
    "train": ("train",),
    "decode": ("decode",),
}


@dataclass(frozen=True)
class Option:
    """One option as documentation shows it.

    ``path``: None, or for a file or directory of the user the words that are no path. ``shapes``:
    what it changes, as :func:`opt` has it; None: what its section does.
    """

    key: str
    type: str
    default: Any
    help: str
    limits: dict[str, Any]
    path: tuple[str, ...] | None = None
    shapes: tuple[str, ...] | None = None

    def is_of(self, *stages: str) -> bool:
        """Whether the option shapes what one of ``stages`` makes, or is of ``plan``."""
        own = SHAPES.get(self.key.split(".")[0], ()) if self.shapes is None else self.shapes
        return not set(own).isdisjoint(stages)


def options_of(cls: type, prefix: str = "") -> Iterator[Option]:
    """Iterate over every option of a dataclass with its dotted key, in the order of declaration."""
    hints = get_type_hints(cls)
    for item in fields(cls):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from options_of(cast(type, hint), f"{prefix}{item.name}.")
            continue
        default = item.default_factory() if item.default is MISSING else item.default  # type: ignore
        limits = {k: v for k, v in item.metadata.items() if k not in ("help", "path", "shapes")}
        if callable(limits.get("choices")):
            limits["choices"] = limits["choices"]()
        name = getattr(hint, "__name__", str(hint)) if "[" not in str(hint) else str(hint)
        yield Option(
            prefix + item.name,
            name,
            default,
            item.metadata["help"],
            limits,
            item.metadata.get("path"),
            item.metadata.get("shapes"),
        )
