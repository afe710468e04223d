"""Validation of a lang directory, as strict as Kaldi's: every fault at once, with file and line.

``python -m lmu_asr.lang.validate DIR`` prints the faults of a directory, or that there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmu_asr.errors import LangError
from lmu_asr.lang import checks_fst, checks_lexicon, checks_tables
from lmu_asr.lang.lang_files import LangFiles, Registered

CHECKS: tuple[Registered, ...] = (
    *checks_tables.CHECKS,
    *checks_lexicon.CHECKS,
    *checks_fst.CHECKS,
)
_FAULTS_SHOWN = 10


def find_faults(directory: str | Path, texts: Iterable[str] = ()) -> list[str]:
    """Return every fault of a lang directory, at most ten of one kind, each with file and line."""
    directory = Path(directory)
    if not directory.is_dir():
        return [f"{directory}: no such directory"]
    files = LangFiles(directory, texts)
    faults: list[str] = []
    for check in CHECKS:
        found = check.run(files)
        faults += found[:_FAULTS_SHOWN]
        if len(found) > _FAULTS_SHOWN:
            faults.append(f"{files.at(check.name)}: {len(found) - _FAULTS_SHOWN} more of this kind")
    return faults


def validate_lang(directory: str | Path, texts: Iterable[str] = ()) -> None:
    """Check a lang directory, and that it spells every word of ``texts``.

    Raises:
        LangError: with one line for each fault.
    """
    faults = find_faults(directory, texts)
    if faults:
        raise LangError(f"{directory}: {len(faults)} faults\n" + "\n".join(faults))


def main(arguments: Sequence[str]) -> int:
    """Print the faults of each directory named; exit status 1 where there is one."""
    faults = [fault for name in arguments for fault in find_faults(name)]
    text = "\n".join(faults) or f"{len(CHECKS)} checks passed"
    sys.stdout.write(text + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
