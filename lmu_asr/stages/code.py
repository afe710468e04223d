"""The code that a stage runs: every definition that its ``run`` reaches, and no other.

From a function the walk follows names to their definitions over the package: functions, whole
classes with their bases, constants, what a module does when it is imported, C++ sources that are
named. Nothing is imported for it. Where code cannot tell what it will load, all that it may is taken.

Two constants at the top of a module narrow the walk:

- ``CHANGES_NO_OUTPUT = True``: the module only shows, logs or sizes; its edits make nothing anew. A
  tuple of names says so of these alone.
- ``RUNS_WITH = {"model.ctc.loss": ("lf_mmi",)}``: it runs only where an option has one of these values.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmu_asr.files import atomic_write_bytes, fingerprint
from lmu_asr.stages.definitions import Definition, Module, read_module

PACKAGE = Path(__file__).resolve().parents[1]
CHOSEN = {  # packages of which the configuration chooses one module, and the option that does
    "corpora": "corpus.name",
    "models.encoders": "model.encoder",
    "models.heads": "model.head",
}
_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/|\s+', re.DOTALL)


class CodeBase:
    """The modules of one package, read as they are reached.

    Args:
        root: directory of the package.

    What a module defines is kept in ``__pycache__`` by the hash of its text, where that can be
    written: reading all of it anew takes a second.
    """

    def __init__(self, root: Path = PACKAGE) -> None:
        self.root, self.name = root, root.name
        self._modules: dict[str, Module | None] = {}
        self._kept = root / "__pycache__" / "definitions.json"
        self._cache: dict[str, Any] = self._read_cache()
        self._news = False

    def module(self, name: str) -> Module | None:
        """What the module ``name`` defines; None: the package has no such module."""
        if name not in self._modules:
            path = self.path(name)
            self._modules[name] = self._read(name, path) if path else None
        return self._modules[name]

    def path(self, name: str) -> Path | None:
        """File of a module; None: the package has no such module."""
        first, *parts = name.split(".")
        if first != self.name or not all(part.isidentifier() for part in parts):
            return None
        place = self.root.joinpath(*parts)
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
        return None

    def modules_of(self, package: str) -> list[str]:
        """Names of the modules right below a package."""
        path = self.path(package)
        if path is None or path.name != "__init__.py":
            return []
        found = [p.stem for p in path.parent.glob("*.py") if p != path]
        found += [p.parent.name for p in path.parent.glob("*/__init__.py")]
        return sorted(f"{package}.{name}" for name in found)

    def save(self) -> None:
        """Keep what was read for the next process; a package that is read-only stays as it is."""
        if self._news and not sys.dont_write_bytecode:
            with contextlib.suppress(OSError):
                atomic_write_bytes(self._kept, json.dumps(self._cache).encode())
        self._news = False

    def _read(self, name: str, path: Path) -> Module:
        source = path.read_bytes()
        digest = hashlib.sha256(source).hexdigest()
        kept = self._cache.get(name) or {}
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # what others left there
            if kept["source"] == digest:
                return Module.from_json(kept["module"])
        try:
            module = read_module(source, name, path.name == "__init__.py")
        except SyntaxError:  # who runs it will hear of that; any edit of it counts
            module = Module(effects=Definition(digest))
        self._cache[name] = {"source": digest, "module": module.to_json()}
        self._news = True
        return module

    def _read_cache(self) -> dict[str, Any]:
        # what another version of the reader kept is of no use
        reader = hashlib.sha256((Path(__file__).parent / "definitions.py").read_bytes()).hexdigest()
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._kept.read_bytes())
            if isinstance(found, dict) and found.get("reader") == reader:
                return found
        return {"reader": reader}


class Closure:
    """All that a function reaches.

    Args:
        code: where modules are found.
        option: value of an option of the configuration by its dotted key; None: there is none.
    """

    def __init__(self, code: CodeBase, option: Callable[[str], Any]) -> None:
        self.code, self.option = code, option
        self.digests: dict[str, str] = {}
        self._seen: set[str] = set()
        self._waiting: list[tuple[str, str]] = []  # module, reference in it
        self._loaded: set[str] = set()

    def of(self, function: str) -> Mapping[str, str]:
        """Digest of everything that ``module:name`` reaches, by module."""
        self._refer("", function)
        while self._waiting:
            self._follow(*self._waiting.pop())
        found: dict[str, dict[str, str]] = {}
        for place, digest in self.digests.items():
            found.setdefault(place.partition(":")[0], {})[place] = digest
        return {module: fingerprint(items)[:16] for module, items in sorted(found.items())}

    def _refer(self, module: str, ref: str) -> None:
        key = ref if ":" in ref or not module else f"{module}:{ref}"
        if key not in self._seen:
            self._seen.add(key)
            self._waiting.append((module, ref))

    def _follow(self, module: str, ref: str) -> None:
        if ref.startswith("/"):
            self._take_source(module, ref[1:])
            return
        target, colon, rest = ref.partition(":")
        if not colon:
            target, rest = module, ref
        if rest in ("*", "*?"):
            self._take_chosen(target, sure=rest == "*")
        elif rest == "!":
            self._load(target)
        else:
            self._take(target, rest.split(".") if rest else [])

    def _take(self, name: str, chain: list[str]) -> None:
        """Take what ``chain`` names in the module ``name``; all of the module where it is empty."""
        module = self.code.module(name)
        if module is None or not self._counts(module):
            return
        first = chain[0] if chain else ""
        if not first:
            self._take_all(name, module)
        elif first in _names(module.marks.get("CHANGES_NO_OUTPUT")):
            return
        elif first in module.defined:
            self._load(name)
            self._add(name, first, module.defined[first].digest, module.defined[first].refs)
        elif first in module.imports:
            self._load(name)
            self._refer(name, _joined(module.imports[first], chain[1:]))
        elif self.code.path(f"{name}.{first}"):
            self._load(name)
            self._take(f"{name}.{first}", chain[1:])
        else:
            for star in module.stars:
                self._refer(name, _joined(f"{star}:", chain))

    def _take_all(self, name: str, module: Module) -> None:
        self._load(name)
        if name.partition(".")[2] in CHOSEN:
            self._take_chosen(name, sure=True)
        for key, definition in module.defined.items():
            self._add(name, key, definition.digest, definition.refs)

    def _take_chosen(self, package: str, sure: bool) -> None:
        """Take the module of a package that the configuration chooses, or all that it can load."""
        key = CHOSEN.get(package.partition(".")[2])
        if key is None and not sure:
            return  # such as a package that is imported where it is installed
        names = self.code.modules_of(package)
        chosen = f"{package}.{self.option(key)}" if key else ""
        for name in [chosen] if chosen in names else names:
            self._refer("", f"{name}:")

    def _load(self, name: str) -> None:
        """Take what the import of a module does, and those of the modules that it imports."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name in self._loaded or not name.startswith(self.code.name):
                continue
            self._loaded.add(name)
            waiting.append(name.rpartition(".")[0])  # a package, or the module of an attribute
            if (module := self.code.module(name)) is None:
                continue
            waiting += module.loads
            if self._counts(module):
                self._add(name, "", module.effects.digest, module.effects.refs)

    def _counts(self, module: Module) -> bool:
        if module.marks.get("CHANGES_NO_OUTPUT") is True:
            return False
        needs = module.marks.get("RUNS_WITH", {})
        return all(self.option(key) in (None, *values) for key, values in needs.items())

    def _add(self, module: str, name: str, digest: str, refs: list[str]) -> None:
        place = f"{module}:{name}"
        if not digest or place in self.digests:
            return
        self.digests[place] = digest
        for ref in refs:
            self._refer(module, ref)

    def _take_source(self, module: str, name: str) -> None:
        """Take a C++ source beside the module without its comments and blanks."""
        path = self.code.path(module)
        source = path.parent / name if path else None
        if source and source.is_file():
            text = source.read_text(encoding="utf-8", errors="replace")
            text = _COMMENT.sub(lambda match: match[1] or " ", text)
            text = re.sub(r" ?(\W) ?| +", lambda match: match[1] or " ", text)
            self.digests[f"{module}:/{name}"] = hashlib.sha256(text.encode()).hexdigest()


def _joined(target: str, chain: list[str]) -> str:
    return ".".join([target, *chain]).replace(":.", ":")


def _names(mark: Any) -> tuple[str, ...]:
    return tuple(mark) if isinstance(mark, (list, tuple)) else ()


def code_of(function: str, option: Callable[[str], Any]) -> dict[str, str]:
    """Digest of the code that ``module:function`` runs, by module.

    Args:
        function: where to begin, such as ``lmu_asr.stages.lang:run``.
        option: value of an option by its dotted key; None: there is none.
    """
    code = code_base(PACKAGE)
    found = Closure(code, option).of(function)
    code.save()
    return dict(found)


@functools.cache
def code_base(root: Path) -> CodeBase:
    """The modules of a package as they were when this process first looked."""
    return CodeBase(root)
