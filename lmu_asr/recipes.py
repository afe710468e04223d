"""The recipes and variants that there are: their files, and a list of them."""

from __future__ import annotations

import difflib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmu_asr.arguments import ArgumentParser
from lmu_asr.config_paths import PROJECT
from lmu_asr.errors import ConfigError, LmuAsrError

WIDTH = 100


def recipes_dir() -> Path:
    """Return the directory of the recipes: of the checkout, or the copy that the wheel carries."""
    carried = PROJECT / "lmu_asr" / "egs"
    return carried if carried.is_dir() else PROJECT / "egs"


def recipe_names(egs_dir: Path) -> list[str]:
    """Return the recipes in order of name."""
    return sorted(p.parent.name for p in egs_dir.glob("*/conf") if p.is_dir())


def check_recipe(egs_dir: Path, recipe: str) -> None:
    """Refuse a recipe that there is not.

    Raises:
        ConfigError: the message holds the closest known one.
    """
    known = recipe_names(egs_dir)
    if recipe not in known:
        near = difflib.get_close_matches(recipe, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
        raise ConfigError(f"recipe {recipe}: no directory {egs_dir / recipe / 'conf'}; {hint}")


def first_comment(path: Path) -> str:
    """Return the comment that a file begins with, as one line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def listing(egs_dir: Path, recipe: str = "") -> Iterator[str]:
    """Yield the lines of the list: every recipe with its variants, or one; then the shared parts."""
    for name in [recipe] if recipe else recipe_names(egs_dir):
        conf = egs_dir / name / "conf"
        yield _line(name, first_comment(conf / "default.yaml"), 0)
        for path in sorted(conf.glob("*.yaml")):
            if path.stem != "default":
                yield _line(path.stem, first_comment(path), 2)
    yield ""
    yield "variants and sizes of every recipe, joined by dashes (--variant lmu_ctc_stream-m):"
    for path in sorted((egs_dir / "conf").glob("*.yaml")):
        yield _line(path.stem, first_comment(path), 2)


def _line(name: str, text: str, indent: int) -> str:
    start = f"{' ' * indent}{name:<{24 - indent}} "
    return (
        start
        + textwrap.shorten(
            text, max(WIDTH - len(start), 20), placeholder=" ...", break_on_hyphens=False
        )
    ).rstrip()


def main(argv: Sequence[str] | None = None, prog: str = "python -m lmu_asr.recipes") -> int:
    """Print the list; returns the exit status."""
    parser = ArgumentParser(
        prog=prog, description="List recipes and their variants.", allow_abbrev=False
    )
    parser.add_argument("recipe", nargs="?", default="", help="only this recipe")
    args = parser.parse_args(argv)
    egs_dir = recipes_dir()
    try:
        if args.recipe or not recipe_names(egs_dir):
            check_recipe(egs_dir, args.recipe)
        print("\n".join(listing(egs_dir, args.recipe)))
    except LmuAsrError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
