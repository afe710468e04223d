"""What a run would do, stage by stage, and what it would stumble over: ``./run.sh --dry-run``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmu_asr.config_files import load_config
from lmu_asr.errors import LmuAsrError
from lmu_asr.progress import setup_logging
from lmu_asr.stages import load_stage
from lmu_asr.stages.checks import missing
from lmu_asr.stages.common import NAMES, ArgumentParser, say_plan
from lmu_asr.stages.context import (
    Context,
    add_common_arguments,
    add_range_arguments,
    launch_arguments,
    make_context,
)
from lmu_asr.stages.source import check_source


def make_parser() -> ArgumentParser:
    """Command line of the plan."""
    parser = ArgumentParser(
        prog="python -m lmu_asr.stages.plan", description=__doc__, allow_abbrev=False
    )
    add_common_arguments(parser)
    parser.add_argument("--force", action="store_true", help="plan for run.sh --force")
    add_range_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Say what would run; returns 1 where something cannot work, and names all of it."""
    setup_logging()
    args = make_parser().parse_args(argv)
    try:
        config = load_config(args.config, args.set)
        context = make_context(config, args)
    except LmuAsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    stages = range(args.stage or 0, args.stop_stage + 1)
    faults = [*_faults_of_source(context), *missing(config, stages, launch_arguments(args))]
    faults += _plan(context, stages)
    for fault in dict.fromkeys(faults):
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _faults_of_source(context: Context) -> list[str]:
    try:
        check_source(context)
    except LmuAsrError as error:
        return [str(error)]
    return []


def _plan(context: Context, stages: range) -> list[str]:
    """Log the stages that would run; return why others cannot be told."""
    faults: dict[str, str] = {}  # by what is wrong: each stage may stumble over the same
    for number in stages:
        try:
            say_plan(load_stage(NAMES[number]), context, stages.start)
        except LmuAsrError as error:
            faults.setdefault(str(error), f"stage {number} ({NAMES[number]}): {error}")
    return list(faults.values())


if __name__ == "__main__":
    sys.exit(main())
