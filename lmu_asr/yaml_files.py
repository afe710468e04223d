"""YAML that people write: plain values alone, within limits of size, depth and repetition.

Values are read as OmegaConf reads them (``1e-3`` is a number, dates are text). Tags that name Python
objects, repeated keys and anchors that multiply are errors; ``${...}`` is text like any other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lmu_asr.errors import DocumentError, LmuAsrError

LARGEST = 1 << 20  # bytes of a file
DEEPEST = 30  # lists and mappings in each other
MOST_ALIASES = 50
MOST_VALUES = 100_000  # with every alias written out


def read_yaml(path: Path, error: type[LmuAsrError] = DocumentError) -> Any:
    """Read one YAML document.

    Raises:
        error: not readable, not UTF-8, not YAML, or beyond the limits of this module.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as fault:
        raise error(f"{path}: cannot be read: {fault.strerror}") from fault
    if len(data) > LARGEST:
        raise error(f"{path}: more than {LARGEST} bytes of YAML")
    return parse_yaml(data, str(path), error)


def parse_yaml(data: str | bytes, where: str, error: type[LmuAsrError] = DocumentError) -> Any:
    """Return the value of a YAML text; ``where`` names it in errors.

    Raises:
        error: not UTF-8, not YAML, or beyond the limits of this module.
    """
    try:
        value = yaml.load(data, Loader=_Loader)  # a safe loader, with limits
        _check_size(value)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as fault:
        raise error(f"{where}{_place(fault, data)}: not valid YAML: {_reason(fault)}") from fault
    except RecursionError:
        raise error(f"{where}: not valid YAML: nested too deeply") from None
    return value


def _place(fault: Exception, data: str | bytes) -> str:
    """The line in a file; what stands behind an option has one line."""
    mark = getattr(fault, "problem_mark", None)
    return f":{mark.line + 1}" if mark and isinstance(data, bytes) else ""


def _reason(fault: Exception) -> str:
    """What is wrong, on one line."""
    parts = (getattr(fault, "context", None), getattr(fault, "problem", None))
    return ", ".join(filter(None, parts)) or next(iter(str(fault).splitlines()), repr(fault))


def _check_size(value: Any) -> None:
    """Count values as if every alias were written out; a list within itself has no end."""
    waiting, count = [value], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values, anchors written out")
        if isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits, without repeated keys."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node; too deep, or one alias too many, is an error."""
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MOST_ALIASES:
                raise self._fault(f"more than {MOST_ALIASES} aliases")
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._fault(f"more than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Write merge keys (``<<``) out; they can double again and again."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES // MOST_ALIASES:
            raise self._fault("a mapping of too many merged keys")

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; a repeated key is an error (before merge keys are written out)."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG:
                if key.value in seen:
                    reason = f"found duplicate key {key.value}"
                    raise yaml.composer.ComposerError(None, None, reason, key.start_mark)
                seen.add(key.value)
        return node

    def _fault(self, reason: str) -> yaml.YAMLError:
        return yaml.composer.ComposerError(None, None, reason, self.get_mark())


_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9]+(?:_[0-9]+)*[eE][-+]?[0-9]+
        |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
        |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
    re.X,
)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if "timestamp" not in tag]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
