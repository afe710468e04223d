"""What one module defines, as syntax: a digest of each definition and the names that it refers to.

Comments, docstrings and formatting leave no trace. Neither do fields of syntax trees that differ
from Python 3.10 to 3.12 (``type_params``, ``kind``, cuts within formatted texts), so that a digest holds for all of them.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SOURCES = (".cpp", ".h", ".cu")  # a text constant that ends so names a file beside the module
LOADERS = ("import_module", "iter_modules", "__import__")
MARKS = ("CHANGES_NO_OUTPUT", "RUNS_WITH")
# Decorators that only wrap what they are given; any other may register it, which counts at import.
PURE = frozenset(
    ("dataclass", "contextmanager", "property", "cache", "lru_cache", "wraps", "overload", "jit")
).union(("staticmethod", "classmethod", "no_grad", "inference_mode", "total_ordering"))
_LEFT_OUT = frozenset(("ctx", "kind", "type_comment", "type_params", "type_ignores"))
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Definition:
    """One name of a module, or what its import does.

    ``refs`` are dotted names of the module itself (``name.attribute``), and of others with their
    module before a colon (``lmu_asr.files:write_json``; all of it: ``lmu_asr.files:``; what its import
    does: ``lmu_asr.files:!``). ``*`` after a package stands for the one of its modules that the
    configuration chooses, ``*?`` for the same where modules are loaded by names that are not seen,
    ``/`` is before a file.
    """

    digest: str = ""
    refs: list[str] = field(default_factory=list)


@dataclass
class Module:
    """The definitions of a module by name, its imports, and what happens when it is imported.

    ``imports`` maps a name to module and attribute as ``refs`` have them; ``stars`` are modules all
    of whose names are imported, ``loads`` those that its import imports, with attributes that may
    be modules; ``marks`` are the constants of :data:`MARKS`.
    """

    defined: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    effects: Definition = field(default_factory=Definition)
    marks: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Module:
        """Rebuild from :meth:`to_json`."""
        defined = {name: Definition(**item) for name, item in values["defined"].items()}
        effects = Definition(**values["effects"])
        return cls(**{**values, "defined": defined, "effects": effects})


def read_module(source: bytes, name: str, is_package: bool) -> Module:
    """Return what a module of the name ``name`` defines.

    Raises:
        SyntaxError: it is no Python.
    """
    return _Reader(name, is_package).read(ast.parse(source))


class _Reader:
    """Sorts the statements of one module into definitions, imports and effects."""

    def __init__(self, name: str, is_package: bool) -> None:
        self.name, self.package = name, name if is_package else name.rpartition(".")[0]
        self.module = Module()
        self._nodes: dict[str, list[ast.stmt]] = {}
        self._effects: list[ast.stmt] = []

    def read(self, tree: ast.Module) -> Module:
        """Return the module of a syntax tree."""
        for statement in tree.body:
            self._take(statement)
        module = self.module
        module.defined = {name: self._define(nodes) for name, nodes in self._nodes.items()}
        module.effects = self._define(self._effects)
        return module

    def _define(self, nodes: Sequence[ast.stmt]) -> Definition:
        digest = hashlib.sha256(repr([plain(node) for node in nodes]).encode("utf-8", "replace"))
        found = _Names(self.name, self.package)
        for node in nodes:
            found.visit(node, ())
        return Definition(digest.hexdigest() if nodes else "", sorted(found.refs))

    def _take(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            self._take_import(statement)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self._nodes.setdefault(statement.name, []).append(statement)
            if any(_decorator(d) not in PURE for d in statement.decorator_list):
                self._effects.append(statement)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            self._take_assignment(statement)
        elif isinstance(statement, ast.If) and _is_no_run(statement.test):
            for inner in statement.orelse:
                self._take(inner)
        elif not _is_text(statement) and not isinstance(statement, ast.Pass):
            self._effects.append(statement)
            for part in ("body", "orelse", "finalbody", "handlers"):
                for inner in getattr(statement, part, ()):
                    for bound in inner.body if isinstance(inner, ast.ExceptHandler) else [inner]:
                        self._take(bound)

    def _take_import(self, statement: ast.Import | ast.ImportFrom) -> None:
        if isinstance(statement, ast.Import):
            self.module.loads += [alias.name for alias in statement.names]
        for name, target in imported(statement, self.package):
            self.module.loads.append(target.replace(":", ".").rstrip("."))
            if name == "*":
                self.module.stars.append(target.rstrip(":"))
            else:
                self.module.imports[name] = target

    def _take_assignment(self, statement: ast.Assign | ast.AnnAssign) -> None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        for name in names:
            if name in MARKS and statement.value is not None:
                self.module.marks[name] = ast.literal_eval(statement.value)
            else:
                self._nodes.setdefault(name, []).append(statement)
        if not all(isinstance(t, (ast.Name, ast.Tuple, ast.List)) for t in targets):
            self._effects.append(statement)  # table[key] = value, thing.attribute = value


def imported(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str]]:
    """Yield the names that an import binds, each with ``module:attribute``."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.asname or alias.name.split(".")[0], _module_of(alias) + ":"
        return
    base = package.split(".")[: len(package.split(".")) + 1 - statement.level]
    before = ".".join(base) if statement.level else ""
    module = ".".join(part for part in (before, statement.module or "") if part)
    for alias in statement.names:
        attribute = "" if alias.name == "*" else alias.name
        yield alias.asname or alias.name, f"{module}:{attribute}"


def _module_of(alias: ast.alias) -> str:
    return alias.name if alias.asname else alias.name.split(".")[0]


def _decorator(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_no_run(test: ast.expr) -> bool:
    """Whether a condition is that of type checkers, or of a program."""
    name = test.left if isinstance(test, ast.Compare) else test
    return _decorator(name) in ("TYPE_CHECKING", "__name__")


def _is_text(node: ast.AST) -> bool:
    """A docstring, or any other text that stands by itself."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def plain(node: Any) -> Any:
    """Return a syntax tree as tuples and constants, without docstrings and places in the file."""
    if isinstance(node, ast.JoinedStr):
        return ("JoinedStr", *_pieces(node))
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "opt":
        # the second is the help of an option (lmu_asr.options): a docstring by another name
        return ("opt", plain(node.args[:1]), plain(node.args[2:]), plain(node.keywords))
    if isinstance(node, ast.AST):
        values = [plain(getattr(node, f, None)) for f in node._fields if f not in _LEFT_OUT]
        return (type(node).__name__, *values)
    if isinstance(node, list):
        return [plain(item) for item in node if not _is_text(item)]
    return (type(node).__name__, repr(node))


def _pieces(node: ast.JoinedStr) -> list[Any]:
    """The parts of a formatted text; Python 3.12 cuts the text between them in another way."""
    found: list[Any] = []
    for value in node.values:
        text = str(value.value) if isinstance(value, ast.Constant) else None
        if text is None:
            found.append(plain(value))
        elif found and isinstance(found[-1], str):
            found[-1] += text
        elif text:
            found.append(text)
    return found


class _Names:
    """Collects what some code refers to beyond its own names."""

    def __init__(self, module: str, package: str) -> None:
        self.package, self.root = package, module.partition(".")[0] + "."
        self.refs: set[str] = set()

    def visit(self, node: ast.AST, scopes: tuple[dict[str, str], ...]) -> None:
        """Collect the references of ``node``; ``scopes`` bind names around it, the inmost last."""
        if isinstance(node, (ast.Name, ast.Attribute)):
            self._visit_name(node, scopes)
        elif isinstance(node, ast.Constant):
            self._visit_text(node.value)
        elif isinstance(node, ast.JoinedStr):
            self._visit_format(node, scopes)
        elif isinstance(node, _SCOPES):
            self._visit_scope(node, scopes)
        elif isinstance(node, _COMPREHENSIONS):
            inner = self._bound([generator.target for generator in node.generators])
            self._visit_all(ast.iter_child_nodes(node), (*scopes, inner))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for _, target in imported(node, self.package):
                self.refs.add(target if not scopes else target.partition(":")[0] + ":!")
        elif not _is_text(node):
            self._visit_all(ast.iter_child_nodes(node), scopes)

    def _visit_all(self, nodes: Any, scopes: tuple[dict[str, str], ...]) -> None:
        for node in nodes:
            self.visit(node, scopes)

    def _visit_name(
        self, node: ast.Name | ast.Attribute, scopes: tuple[dict[str, str], ...]
    ) -> None:
        chain: list[str] = []
        root: ast.AST = node
        while isinstance(root, ast.Attribute):
            chain.insert(0, root.attr)
            root = root.value
        if (chain[-1] if chain else getattr(root, "id", "")) in LOADERS:
            self.refs.add(f"{self.package}:*?")
        if not isinstance(root, ast.Name):
            self.visit(root, scopes)
            return
        for scope in reversed(scopes):
            if root.id in scope:
                target = scope[root.id]  # empty for what is no import
                if target:
                    self.refs.add(".".join([target, *chain]).replace(":.", ":"))
                return
        self.refs.add(".".join([root.id, *chain]))

    def _visit_text(self, value: Any) -> None:
        """Names of modules and of source files count wherever they stand."""
        if isinstance(value, str) and value.endswith(SOURCES):
            self.refs.add("/" + value)
        elif isinstance(value, str) and value.startswith(self.root):
            self.refs.add(value + ":")

    def _visit_format(self, node: ast.JoinedStr, scopes: tuple[dict[str, str], ...]) -> None:
        """``f"package.{name}"`` is a module that the configuration chooses."""
        first = node.values[0] if node.values else None
        text = str(first.value) if isinstance(first, ast.Constant) else ""
        if text.startswith(self.root) and text.endswith("."):
            self.refs.add(f"{text[:-1]}:*")
        self._visit_all(ast.iter_child_nodes(node), scopes)

    def _visit_scope(self, node: Any, scopes: tuple[dict[str, str], ...]) -> None:
        """Decorators, defaults and bases belong to the outer scope; what is annotated does not run.

        Names of a class body are no names of its methods, so a class opens no scope.
        """
        self._visit_all(getattr(node, "decorator_list", ()), scopes)
        if isinstance(node, ast.ClassDef):
            self._visit_all([*node.bases, *node.keywords, *node.body], scopes)
            return
        arguments = node.args
        self._visit_all((d for d in (*arguments.defaults, *arguments.kw_defaults) if d), scopes)
        body = node.body if isinstance(node.body, list) else [node.body]
        inner = self._bound(body)
        inner.update({a.arg: "" for a in ast.walk(arguments) if isinstance(a, ast.arg)})
        self._visit_all(body, (*scopes, inner))

    def _bound(self, body: Sequence[ast.AST]) -> dict[str, str]:
        """Names that statements bind in their own scope; of imports with their targets."""
        found: dict[str, str] = {}
        outer: set[str] = set()
        waiting = list(body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                found.setdefault(node.id, "")
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                found.update(imported(node, self.package))
            elif isinstance(node, (ast.Global, ast.Nonlocal)):
                outer.update(node.names)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                found.setdefault(node.name, "")
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.setdefault(node.name, "")
                continue
            elif isinstance(node, (ast.MatchAs, ast.MatchStar, ast.MatchMapping)):
                found.setdefault(
                    getattr(node, "rest", None) or getattr(node, "name", None) or "", ""
                )
            elif isinstance(node, ast.Lambda):
                continue
            elif isinstance(node, _COMPREHENSIONS):  # only := binds around it
                waiting.extend(n.target for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
                continue
            waiting.extend(ast.iter_child_nodes(node))
        return {name: target for name, target in found.items() if name not in outer}
