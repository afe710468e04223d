"""The long run by hand: ``python -m tests.fuzz [--count N] [--first N] [NAME ...]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.harness import run
from tests.fuzz.targets import TARGETS

parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
parser.add_argument("--count", type=int, default=50_000, help="inputs of each target")
parser.add_argument("--first", type=int, default=0, help="number of the first input")
parser.add_argument("names", nargs="*", help="targets; all by default")
args = parser.parse_args()
failed = False
for name in args.names or TARGETS:
    with tempfile.TemporaryDirectory() as folder:
        numbers = range(args.first, args.first + args.count)
        report = run(TARGETS[name](), Path(folder), numbers)
    print(report.line(), flush=True)
    for kind, text in report.faults.items():
        print(f"--- {kind}\n{text}", flush=True)
    failed = failed or bool(report.faults)
sys.exit(failed)
