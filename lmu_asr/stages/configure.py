"""Before stage 0: resolve the configuration of a run and write it where every stage reads it."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lmu_asr.config import Config, load_config, options_markdown, save_config
from lmu_asr.errors import ConfigError, LmuAsrError
from lmu_asr.stages.common import ArgumentParser


def make_parser() -> argparse.ArgumentParser:
    """Command line: which recipe and variant, and what the user sets on top."""
    parser = ArgumentParser(
        prog="python -m lmu_asr.stages.configure", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--recipe", default="mini", help="a directory of egs/")
    parser.add_argument("--variant", default="default", help="a file of egs/<recipe>/conf/")
    parser.add_argument("--data", default="", help="the user's own data")
    parser.add_argument("--fsa", default="", help="auto, k2 or openfst")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--exp-dir", type=Path, default=Path("exp"))
    parser.add_argument("--egs-dir", type=Path, default=Path("egs"))
    parser.add_argument("--options", action="store_true", help="print the table of all options")
    return parser


def resolve(args: argparse.Namespace) -> Config:
    """Return the configuration of the run.

    Raises:
        ConfigError: unknown recipe, variant or key; wrong value.
    """
    conf = args.egs_dir / args.recipe / "conf"
    if not conf.is_dir():
        known = sorted(p.parent.name for p in args.egs_dir.glob("*/conf"))
        near = difflib.get_close_matches(args.recipe, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        raise ConfigError(f"--recipe {args.recipe}: no directory {conf}{hint}")
    overrides = [f"variant={args.variant}{'-k2' if args.fsa == 'k2' else ''}"]
    overrides += [f"graph.fsa={args.fsa}"] if args.fsa else []
    config = load_config(conf / f"{args.variant}.yaml", overrides + args.set)
    return _with_data(config, args.data) if args.data else config


def _with_data(config: Config, data: str) -> Config:
    path = Path(data)
    name = path.resolve().name.split(".")[0] or "own"
    corpus = replace(config.corpus, source=str(path), id=config.corpus.id or name)
    return replace(config, corpus=corpus)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the resolved configuration and print its path."""
    args = make_parser().parse_args(argv)
    if args.options:
        print(options_markdown(), end="")
        return 0
    try:
        config = resolve(args)
        corpus = config.corpus.id or config.corpus.name
        path = args.exp_dir / corpus / config.variant / "resolved.yaml"
        save_config(config, path)
    except LmuAsrError as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; choose another --exp-dir", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
