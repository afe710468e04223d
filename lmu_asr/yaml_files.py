"""YAML that people write: plain values alone, within limits of size, depth and repetition.

Values are read as OmegaConf reads them (``1e-3`` is a number, dates are text), but for whole numbers of
base 8 and 60: ``0123`` and ``1:30`` are text. Tags that name Python objects, repeated keys and anchors
that multiply are errors; ``${...}`` is text like any other.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from lmu_asr.errors import DocumentError, LmuAsrError

LARGEST = 1 << 20  # bytes of a file
DEEPEST = 30  # lists and mappings in each other
MOST_ALIASES = 50
MOST_VALUES = 100_000  # with every alias written out


def read_yaml(
    path: Path, error: type[LmuAsrError] = DocumentError, texts: Collection[str] = ()
) -> Any:
    """Read one YAML document; ``texts`` as for :func:`parse_yaml`.

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
    return parse_yaml(data, str(path), error, texts)


def parse_yaml(
    data: str | bytes,
    where: str,
    error: type[LmuAsrError] = DocumentError,
    texts: Collection[str] = (),
) -> Any:
    """Return the value of a YAML text.

    Args:
        data: the text.
        where: names it in errors.
        error: the class of the error to raise.
        texts: dotted keys of texts and lists of texts, which are taken as they are written: ``0123``,
            ``1e3`` and ``no`` are no numbers there. The key of the whole document is empty.

    Raises:
        error: not UTF-8, not YAML, or beyond the limits of this module.
    """
    try:
        loader = _Loader(data)  # a safe loader, with limits
        node = loader.get_single_node()
        value = node and loader.construct_document(_Written(texts).node(node, ""))
        _check_size(value)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as fault:
        raise error(f"{where}{_place(fault, data)}: not valid YAML: {_reason(fault)}") from fault
    except RecursionError:
        raise error(f"{where}: not valid YAML: nested too deeply") from None
    return value


def dump_yaml(value: Any) -> str:
    """Return YAML that :func:`parse_yaml` reads as the same value, in the order of its keys."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


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


class _Written:
    """Marks the scalars of texts, so that they keep the letters that were written.

    Nodes are copied: an anchor may stand at a text and at a number. Each is copied once for a key.
    """

    def __init__(self, texts: Collection[str]) -> None:
        self._texts = set(texts)
        self._above = {key[:end] for key in texts for end in range(len(key)) if key[end] == "."}
        self._copies: dict[tuple[int, str], yaml.Node] = {}

    def node(self, node: yaml.Node, key: str) -> yaml.Node:
        """Return the node of a dotted key, copied where texts stand in it."""
        is_text = key in self._texts
        if isinstance(node, yaml.ScalarNode):
            plain = node.style is None and node.tag not in (_STR, _NULL)
            return yaml.ScalarNode(_STR, node.value, node.start_mark) if is_text and plain else node
        if key and not is_text and key not in self._above:
            return node
        if (id(node), key) not in self._copies:
            kind: Any = type(node)
            copy = kind(node.tag, [], node.start_mark, node.end_mark)
            self._copies[id(node), key] = copy  # before its values: they may hold the node itself
            if isinstance(node, yaml.SequenceNode):
                copy.value = [self.node(item, key) for item in node.value]
            else:
                copy.value = [(k, self.node(v, self._below(key, k))) for k, v in node.value]
        return self._copies[id(node), key]

    def _below(self, key: str, name: yaml.Node) -> str:
        if name.tag == "tag:yaml.org,2002:merge":
            return key
        return f"{key}.{name.value}" if key else str(name.value)


_STR, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_HALF = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")  # the others are bytes of names of files


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

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Compose a scalar; half of a surrogate pair is an error, both halves are a character."""
        node = super().compose_scalar_node(anchor)
        if not node.value.isascii():
            data = node.value.encode("utf-16-le", "surrogatepass")
            node.value = data.decode("utf-16-le", "surrogatepass")
            if half := _HALF.search(node.value):
                reason = f"\\u{ord(half[0]):x} is half of a surrogate pair, no character"
                raise yaml.composer.ComposerError(None, None, reason, node.start_mark)
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
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
    re.X,
)
# without base 8 (0123) and base 60 (1:30): no one means them
_INT = re.compile(r"^[-+]?(?:0b[0-1_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$")
_REPLACED = ("timestamp", "int", "float")


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper: a text that it or :class:`_Loader` reads as a number is put in quotes."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.split(":")[-1] not in _REPLACED]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A text; PyYAML leaves these ends of lines outside quotes and reads them back as blanks."""
    return dumper.represent_scalar(_STR, text, style='"' if _ENDS.search(text) else None)


_ENDS = re.compile("[\x85\u2028\u2029]")
_Dumper.add_representer(str, _text)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
