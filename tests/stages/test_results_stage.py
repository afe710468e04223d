"""Stage 6 prints its table for whoever reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PRINT = """
import sys
from pathlib import Path
from types import SimpleNamespace
from lmu_asr.stages.results import show
show(SimpleNamespace(results_dir=Path(sys.argv[1])))
"""


def test_a_reader_who_has_enough_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "RESULTS.md").write_text("a line of the table\n" * 10_000)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", PRINT, tmp_path], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
