"""Before stage 0: resolve the configuration of a run and write it where every stage reads it."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lmu_asr.config import NAME, Config, options_markdown
from lmu_asr.config_files import load_config, option_value, override_keys, save_config
from lmu_asr.config_paths import absolute_paths, with_value
from lmu_asr.data.importing.list_names import check_split_names
from lmu_asr.errors import ConfigError, LmuAsrError, StageError
from lmu_asr.files import fingerprint
from lmu_asr.guard import end_quietly
from lmu_asr.recipes import check_recipe, recipes_dir
from lmu_asr.stages.checks import missing
from lmu_asr.stages.common import ArgumentParser
from lmu_asr.stages.context import (
    OWN_COPY,
    Context,
    add_range_arguments,
    launch_arguments,
    save_places,
)
from lmu_asr.stages.source import check_source, source_name

ENGINES = ("auto", "k2", "openfst")


def make_parser() -> argparse.ArgumentParser:
    """Command line: which recipe and variant, and what the user sets on top."""
    parser = ArgumentParser(
        prog="python -m lmu_asr.stages.configure", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--recipe", default="mini", help="a directory of egs/")
    parser.add_argument(
        "--variant",
        default="default",
        help="files of egs/<recipe>/conf/ or egs/conf/, joined by dashes: lmu_ctc_stream-m",
    )
    parser.add_argument("--data", default="", help="the user's own data")
    parser.add_argument("--fsa", default="", help="auto, k2 or openfst")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--exp-dir", type=Path, default=Path("exp"))
    parser.add_argument("--data-dir", type=Path, help="prepared data, to see whose they are")
    parser.add_argument("--egs-dir", type=Path, default=recipes_dir())
    parser.add_argument(
        "--caller-dir",
        type=Path,
        default=Path.cwd(),
        help="directory that relative paths of --data and --set mean (the working directory)",
    )
    parser.add_argument(
        "--out", type=Path, help="file to write (<exp-dir>/<corpus>/<variant>/resolved.yaml)"
    )
    add_range_arguments(parser)
    parser.add_argument("--options", action="store_true", help="print the table of all options")
    return parser


def resolve(args: argparse.Namespace) -> Config:
    """Return the configuration of the run: its paths absolute, what ``--set`` changed listed.

    Raises:
        ConfigError: unknown recipe, variant or key; wrong value.
    """
    first, *others = variant_files(args.egs_dir, args.recipe, args.variant)
    if args.fsa not in ("", *ENGINES):
        raise ConfigError(f"--fsa {args.fsa}: want {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    name = f"{args.variant}-k2" if args.fsa == "k2" else args.variant
    # without --set, so that what it really changes can be told
    plain = with_value(load_config(first, (), others), "variant", name)
    fsa = [f"graph.fsa={args.fsa}"] if args.fsa else []
    config = load_config(first, [f"variant={name}", *fsa, *args.set], others)
    _check_phones(config)
    check_split_names(config.corpus)
    if args.data:
        config = _with_data(config, args.data, args.caller_dir.absolute())
    project = args.egs_dir.resolve().parent  # what relative paths in the recipes' files mean
    keys = override_keys(args.set, config.model)
    config = absolute_paths(config, keys, args.caller_dir.absolute(), project)
    changed = [key for key in sorted(keys) if option_value(plain, key) != option_value(config, key)]
    return replace(config, overrides=[f"{key}={option_value(config, key)}" for key in changed])


def variant_files(egs_dir: Path, recipe: str, variant: str) -> list[Path]:
    """Return the files that make a variant, each laid on top of those before.

    ``<variant>.yaml`` of the recipe is whole in itself. Any other name is made of parts joined by
    dashes, each a file of the recipe or one that all recipes share (``egs/conf``); a shared first
    part stands on the recipe's ``default.yaml``.

    Raises:
        ConfigError: unknown recipe or part; the message holds the closest known one.
    """
    conf, shared = egs_dir / recipe / "conf", egs_dir / "conf"
    check_recipe(egs_dir, recipe)
    if not re.fullmatch(NAME["pattern"], variant):
        raise ConfigError(f"--variant {variant!r}: want {NAME['want']}")
    if (conf / f"{variant}.yaml").is_file():
        return [conf / f"{variant}.yaml"]
    files = [_part(conf, shared, variant, part) for part in variant.split("-")]
    return files if files[0].parent == conf else [conf / "default.yaml", *files]


def _part(conf: Path, shared: Path, variant: str, part: str) -> Path:
    for folder in (conf, shared):
        if (folder / f"{part}.yaml").is_file():
            return folder / f"{part}.yaml"
    known = sorted({p.stem for folder in (conf, shared) for p in folder.glob("*.yaml")})
    near = difflib.get_close_matches(part, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"--variant {variant}: no {part}.yaml in {conf} or {shared}{hint} (known: "
        f"{', '.join(known)}; several are joined by dashes)"
    )


def _check_phones(config: Config) -> None:
    """Refuse English pronunciations for a corpus in another language, before any compute."""
    from lmu_asr.corpora import check_corpus, get_corpus

    check_corpus(config.corpus.name)
    if config.lang.unit != "phone" or config.lang.lexicon:
        return  # a corpus loads Lhotse, which takes ten times as long as all else here
    language = get_corpus(config.corpus.name).language
    if language not in ("en", ""):
        raise ConfigError(
            f"lang.unit=phone: the corpus '{config.corpus.name}' is in another language "
            f"('{language}'), and CMUdict and its g2p are English: name a pronunciation lexicon "
            "with --set lang.lexicon=FILE, or take --variant lmu_ctc_char"
        )


def _with_data(config: Config, data: str, caller: Path) -> Config:
    source = data if "://" in data else str(caller / Path(data).expanduser())
    corpus = replace(config.corpus, source=source, id=config.corpus.id or source_name(source))
    return replace(config, corpus=corpus)


def _check(config: Config, args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is written or computed.

    Raises:
        StageError: the directories belong to another source, or something is missing.
    """
    if args.data_dir:
        check_source(Context(config, args.data_dir, args.exp_dir, args.recipe, 1))
    if args.stage is not None:
        stages = range(args.stage, args.stop_stage + 1)
        if faults := missing(config, stages, launch_arguments(args)):
            raise StageError("\n  ".join(["", *faults]))


def save_own_copy(config: Config, folder: Path) -> Path:
    """Write the configuration under a name that its content gives; returns the path.

    ``resolved.yaml`` is that of the last start. The stages of a run that goes on beside it, with
    other options, read their own copy.
    """
    path = folder / f"{OWN_COPY}{fingerprint(config.to_dict())[:12]}.yaml"
    if not path.is_file():
        save_config(config, path)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Write the resolved configuration and print its path."""
    args = make_parser().parse_args(argv)
    if args.options:
        print(options_markdown(), end="")
        return 0
    try:
        config = resolve(args)
        corpus = config.corpus.id or config.corpus.name
        path = args.out or args.exp_dir / corpus / config.variant / "resolved.yaml"
        if not args.out:
            _check(config, args)
        save_config(config, path)
        if args.data_dir and not args.out:
            save_places(path.parent, args.data_dir)
        if not args.out:
            path = save_own_copy(config, path.parent)
    except StageError as error:
        print(f"error: cannot start: {error}", file=sys.stderr)
        return 1
    except LmuAsrError as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; choose another --exp-dir", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    end_quietly()
    sys.exit(main())
