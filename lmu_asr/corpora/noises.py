"""Optional noise and room recordings for augmentation: ``python -m lmu_asr.corpora.noises --help``.

MUSAN (Snyder et al. 2015, https://www.openslr.org/17) and the room impulse responses of Ko et al.
2017 (https://www.openslr.org/28). Downloads resume and are verified, as those of corpora are.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmu_asr.corpora.fetch import Archive, fetch_and_unpack
from lmu_asr.corpora.splits import OPENSLR
from lmu_asr.errors import LmuAsrError
from lmu_asr.progress import setup_logging


@dataclass(frozen=True)
class NoiseSet:
    """One set: its archive, what to say of it, and the options that use it, ``{}`` its place."""

    archive: Archive
    note: str
    use: str


SETS = {
    "musan": NoiseSet(
        Archive("17/musan.tar.gz", "md5:0c472d4fc0c5141eca47ad1ffeb2a7df"),
        "MUSAN: music, speech and noise, 109 hours, 11 GB; free licences, listed in its files",
        "--set augment.noise_dir={}/musan/noise",
    ),
    "rirs": NoiseSet(
        Archive("28/rirs_noises.zip", "md5:e6f48e257286e05de56413b4779d8ffb"),
        "Room impulse responses, simulated and real, 1.3 GB: Apache 2.0",
        "--set augment.rir_dir={}/RIRS_NOISES/simulated_rirs",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the sets named; returns the exit status."""
    setup_logging()
    parser = argparse.ArgumentParser(prog="python -m lmu_asr.corpora.noises", description=__doc__)
    parser.add_argument("sets", nargs="+", choices=sorted(SETS))
    parser.add_argument("--target", type=Path, default=Path("data/noises"))
    parser.add_argument("--download-dir", default="", help="archives fetched by other means")
    parser.add_argument("--mirror", default="", help="base address in place of OpenSLR's")
    args = parser.parse_args(argv)
    bases = [args.mirror] if args.mirror else OPENSLR
    try:
        for name in args.sets:
            logging.info("%s", SETS[name].note)
            fetch_and_unpack([SETS[name].archive], bases, args.target, args.download_dir)
            logging.info("to use it: %s", SETS[name].use.format(args.target))
    except LmuAsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
