"""The command ``lmu-asr`` (``python -m lmu_asr``): what one does with a trained model, and a list."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lmu_asr import __version__
from lmu_asr.guard import end_quietly

# name: module, what it does
COMMANDS = {
    "transcribe": ("lmu_asr.stages.transcribe", "audio files to text, with a trained model"),
    "align": ("lmu_asr.stages.align", "word and token times of a prepared split"),
    "compare": ("lmu_asr.scoring.compare", "two decodes on the same utterances, with a p-value"),
    "clean": (
        "lmu_asr.stages.clean",
        "remove earlier runs that training moved aside (superseded-*)",
    ),
    "list": ("lmu_asr.recipes", "recipes and their variants"),
}
ACTIVATE = "in a checkout, activate its environment with: . ./path.sh"
USAGE = """\
usage: lmu-asr COMMAND [options]

{commands}

  lmu-asr COMMAND --help   the options of a command
  lmu-asr --version        the version
  lmu-asr --help           this text

A recipe is trained by ./run.sh in a checkout; see {run}.
Example: lmu-asr transcribe --config exp/mini/default/config.yaml FILE.wav
"""


def usage() -> str:
    """Return the page that ``--help`` prints."""
    lines = [f"  {name:<12} {text}" for name, (_, text) in COMMANDS.items()]
    run = Path(__file__).resolve().parents[1] / "run.sh"
    where = f"{run} --help" if run.is_file() else "the README of the project"
    return USAGE.format(commands="\n".join(lines), run=where)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its status, 2 for a command that there is not."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if first in ("--version", "version"):
        print(f"lmu-asr {__version__}")
        return 0
    if first not in COMMANDS:
        return _unknown(first)
    try:
        module = importlib.import_module(COMMANDS[first][0])
    except ModuleNotFoundError as error:
        print(f"lmu-asr: error: {error.name} is not installed; {ACTIVATE}", file=sys.stderr)
        return 1
    try:
        status: int = module.main(arguments[1:], prog=f"lmu-asr {first}")
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has what it wants, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _unknown(name: str) -> int:
    if not name:
        print(usage(), end="", file=sys.stderr)
        return 2
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"
    kind = "option" if name.startswith("-") else "command"
    print(f"lmu-asr: error: unknown {kind} '{name}'; {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    end_quietly()
    sys.exit(main())
