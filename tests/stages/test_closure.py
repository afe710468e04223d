"""What a walk over code reaches: how names, imports and registries lead from one definition to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmu_asr.stages.code import CHOSEN, Closure, CodeBase
from lmu_asr.stages.definitions import read_module

FILES = {
    "__init__.py": "",
    "run.py": "from pkg.a import used\n\ndef run(): return used()\n",
    "a.py": "def used(): return 1\n\ndef other(): return 2\n",
}


def reached(folder: Path, start: str = "pkg.run:run", /, **files: str) -> set[str]:
    """What ``run`` of a package of these files reaches; ``b__c`` stands for ``b/c.py``."""
    root = folder / "pkg"
    named = {f"{name.replace('__', '/')}.py": text for name, text in files.items()}
    for name, text in {**FILES, **named}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        if text or not path.exists():
            path.write_text(text)
    closure = Closure(CodeBase(root), {"corpus.name": "one", "train.loss": "ctc"}.get)
    closure.of(start)
    return {place.removeprefix("pkg.") for place in closure.digests} - {"run:run"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, {"a:used"}),
        ({"run": "import pkg.a\n\ndef run(): pkg.a.used()\n"}, {"a:used"}),
        ({"run": "import pkg.a as x\n\ndef run(): x.used()\n"}, {"a:used"}),
        ({"run": "from . import a\n\ndef run(): a.used()\n"}, {"a:used"}),
        ({"run": "from pkg.a import *\n\ndef run(): used()\n"}, {"a:used"}),
        ({"run": "def run():\n    from pkg.a import used as u\n    u()\n"}, {"a:used"}),
        ({"run": "def run():\n    import pkg.a as x\n    x.used()\n"}, {"a:used"}),
        # a module as a value, or by name: all of it
        ({"run": "import pkg.a as x\n\ndef run(): getattr(x, 'used')()\n"}, {"a:used", "a:other"}),
        ({"run": "def run(): start('pkg.a')\n"}, {"a:used", "a:other"}),
        # names that are the function's own are no others
        ({"run": "from pkg.a import used\n\ndef run(used): return used\n"}, set()),
        ({"run": "from pkg.a import used\n\ndef run():\n    used = 1\n    return used\n"}, set()),
        ({"run": "from pkg.a import used\n\ndef run(): return [used for used in ()]\n"}, set()),
        # but these are
        ({"run": "from pkg.a import used\n\ndef run(): return used, [used for used in ()]\n"}, {"a:used"}),
        ({"run": "from pkg.a import used\n\ndef run(x=used): return x\n"}, {"a:used"}),
        ({"run": "from pkg.a import used\n\n@used\ndef run(): 1\n"}, {"a:used", "run:"}),
        # names of a class body are no names of its methods
        (
            {"run": "from pkg.a import used\nclass run:\n    used = 1\n    def f(self): used()\n"},
            {"a:used"},
        ),
        ({"a": "class used(base): pass\nclass base: pass\n"}, {"a:used", "a:base"}),
        # what is annotated does not run
        ({"run": "from pkg.a import used\n\ndef run(x: used) -> used: return x\n"}, set()),
        # what an import does counts wherever it is imported, also by others
        ({"a": "import pkg.b\n\ndef used(): 1\n", "b": "f(1)\ndef g(): 1\n"}, {"a:used", "b:"}),
        ({"a": "from pkg.b import g\n\ndef used(): 1\n", "b": "f(1)\ndef g(): 1\n"}, {"a:used", "b:"}),
        ({"a": "TABLE = {}\nTABLE['x'] = 1\ndef used(): 1\n"}, {"a:used", "a:", "a:TABLE"}),
        ({"a": "@register\ndef other(): 1\ndef used(): 1\n"}, {"a:used", "a:"}),
        ({"a": "from functools import cache\n@cache\ndef other(): 1\ndef used(): 1\n"}, {"a:used"}),
        ({"a": "if __name__ == '__main__':\n    used()\ndef used(): 1\n"}, {"a:used"}),
        ({"a": "try:\n    import k2\nexcept ImportError:\n    k2 = None\ndef used(): k2\n"}, {"a:used", "a:", "a:k2"}),
        ({"a": "def used(: 1\n"}, {"a:"}),  # no Python: any edit counts
        # marks
        ({"a": "CHANGES_NO_OUTPUT = True\ndef used(): 1\n"}, set()),
        ({"a": "CHANGES_NO_OUTPUT = ('used',)\ndef used(): 1\n"}, set()),
        ({"a": "CHANGES_NO_OUTPUT = ('other',)\ndef used(): 1\n"}, {"a:used"}),
        ({"a": "RUNS_WITH = {'train.loss': ('mmi',)}\ndef used(): 1\n"}, set()),
        ({"a": "RUNS_WITH = {'train.loss': ('ctc',)}\ndef used(): 1\n"}, {"a:used"}),
        ({"a": "RUNS_WITH = {'train.no_option': ('x',)}\ndef used(): 1\n"}, {"a:used"}),
    ],
)  # fmt: skip
def test_reached(tmp_path: Path, files: dict[str, str], found: set[str]) -> None:
    assert reached(tmp_path, **files) == found


LOADERS = {
    "text": 'def run(): import_module(f"pkg.corpora.{name}")\n',
    "registry": 'from pkg.a import get\nKIND = get("pkg.corpora")\ndef run(): KIND.module()\n',
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_configuration_chooses_of_a_registry(tmp_path: Path, name: str) -> None:
    files = {"corpora__one": "ONE = 1\n", "corpora__two": "TWO = 2\n", "run": LOADERS[name]}
    found = {place for place in reached(tmp_path, **files) if place.startswith("corpora")}
    assert "corpora" in CHOSEN and found == {"corpora.one:ONE"}


def test_all_of_a_package_that_no_option_chooses_from(tmp_path: Path) -> None:
    files = {"b__one": "ONE = 1\n", "b__two": "TWO = 2\n"}
    run = 'def run(): import_module(f"pkg.b.{name}")\n'
    assert reached(tmp_path, run=run, **files) == {"b.one:ONE", "b.two:TWO"}


SAME = [
    ("def f(): return 1", 'def f():\n    """Doc."""\n    return 1  # why'),
    ("x = 'a'", 'x = (\n    "a"\n)'),
    ("f(a, b)", "f(\n    a,\n    b,\n)"),
    ("x = f'a{b}c'", "x = f'a' f'{b}' 'c'"),
    ("x = 1", 'x = 1\n"""What it is."""'),
    (
        "class Options:\n    x: int = opt(1, 'a', min=2)",
        "class Options:\n    x: int = opt(1, 'b', min=2)",
    ),
]
OTHER = [
    ("x = 1", "x = 1.0"),
    ("x = 'a'", "x = b'a'"),
    ("x = True", "x = 1"),
    ("f(a)", "f(*a)"),
    ("x = opt(1, 'a', min=2)", "x = opt(1, 'a', min=3)"),
    ("x = opt(1, 'a')", "x = opt(2, 'a')"),
    ("x = f'{a}'", "x = f'{a!r}'"),
    ("x = f'{a}b'", "x = f'b{a}'"),
    ("def f(): x = 1", "async def f(): x = 1"),
]


def digest(text: str) -> list[Any]:
    module = read_module(text.encode(), "pkg.a", is_package=False)
    return [module.effects.digest, *(d.digest for d in module.defined.values())]


@pytest.mark.parametrize(("one", "two"), SAME)
def test_same_syntax(one: str, two: str) -> None:
    assert digest(one) == digest(two)


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_other_syntax(one: str, two: str) -> None:
    assert digest(one) != digest(two)
