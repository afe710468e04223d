"""Measures this machine for a variant and writes autoconf.yaml; training does the same by itself.

Runs by hand after stage 2, alone or under torchrun as training will:
python -m lmu_asr.stages.autoconf --config exp/mini/default/resolved.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmu_asr.config_files import load_config
from lmu_asr.errors import LmuAsrError, StageError
from lmu_asr.guard import end_quietly
from lmu_asr.progress import setup_logging
from lmu_asr.stages.common import ArgumentParser, add_common_arguments, make_context


def make_parser() -> ArgumentParser:
    """Command line of the measurement."""
    parser = ArgumentParser(
        prog="python -m lmu_asr.stages.autoconf", description=__doc__, allow_abbrev=False
    )
    add_common_arguments(parser)
    parser.add_argument("--force", action="store_true", help="measure even where the file holds")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the file and print it as a table; returns the exit status."""
    setup_logging()
    args = make_parser().parse_args(argv)
    try:
        config = load_config(args.config, args.set)
        context = make_context(config, args)
        from lmu_asr.training.parallel.joining import joined_world
        from lmu_asr.training.sizing.sizing import measure

        with joined_world(minutes=config.train.join_minutes) as world:
            folders = context.exp_dir, context.features_dir, context.lang_dir
            plan = measure(config, *folders, world, args.force)
        if plan is None:
            raise StageError("nothing was measured, for the reason above")
        if world.is_main:
            print(plan.table())
            print(context.exp_dir / "autoconf.yaml")
    except LmuAsrError as error:
        print(f"autoconf: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"autoconf: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_quietly()
    sys.exit(main())
