"""Removes earlier training runs that others have superseded, and nothing else; asks nothing.

Training with other settings keeps the run before it in exp/<corpus>/<variant>/superseded-*.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lmu_asr.arguments import ArgumentParser
from lmu_asr.guard import end_quietly
from lmu_asr.stages.runs import size_of, superseded

PROG = "python -m lmu_asr.stages.clean"


def make_parser(prog: str = PROG) -> ArgumentParser:
    """Command line."""
    parser = ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument("--exp-dir", type=Path, default=Path("exp"), help="experiments (exp)")
    parser.add_argument("--dry-run", action="store_true", help="only list them")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Remove, or list, the superseded runs of all variants; returns the exit status."""
    args = make_parser(prog).parse_args(argv)
    if not args.exp_dir.is_dir():
        print(f"clean: error: {args.exp_dir}: no such directory (--exp-dir)", file=sys.stderr)
        return 1
    total = 0
    try:
        for path in (p for folder in sorted(args.exp_dir.glob("*/*")) for p in superseded(folder)):
            size = size_of(path)
            if not args.dry_run:
                shutil.rmtree(path)
            total += size
            print(f"{path}: {size / 2**20:.1f} MiB")
    except OSError as error:
        print(f"clean: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{'would free' if args.dry_run else 'freed'} {total / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    end_quietly()
    sys.exit(main())
