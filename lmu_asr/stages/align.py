"""Forced alignment with a trained model: word and token times as CTM and TextGrid.

Runs by hand after stage 4: lmu-asr align --config exp/mini/default/config.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lmu_asr.errors import LmuAsrError
from lmu_asr.guard import end_quietly
from lmu_asr.progress import setup_logging
from lmu_asr.stages.common import ArgumentParser, add_common_arguments, make_context
from lmu_asr.stages.context import trained_config

PROG = "python -m lmu_asr.stages.align"


def make_parser(prog: str = PROG) -> ArgumentParser:
    """Command line of the alignment."""
    parser = ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False)
    add_common_arguments(parser)
    parser.add_argument("--split", default="", help="split to align (the dev split)")
    parser.add_argument("--out", type=Path, default=None, help="directory (<experiment>/align)")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Align one split and write its files; returns the exit status."""
    setup_logging()
    args = make_parser(prog).parse_args(argv)
    try:
        config = trained_config(args.config, args.set)
        context = make_context(config, args)
        # here, since importing torch takes seconds, for which --help need not wait
        from lmu_asr.decoding.align_split import align_split

        split = args.split or config.corpus.dev
        found = align_split(config, context.exp_dir, context.features_dir, context.lang_dir, split)
        out = args.out or context.exp_dir / "align"
        found.write(out, split)
    except LmuAsrError as error:
        print(f"align: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"align: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(out / f"align-{split}-words.ctm")
    return 0


if __name__ == "__main__":
    end_quietly()
    sys.exit(main())
