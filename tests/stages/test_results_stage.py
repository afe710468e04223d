"""Stage 6 prints its table for whoever reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmu_asr.stages.decode import PROJECT, command_from_project

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


@pytest.mark.parametrize(
    ("called", "wanted"),
    [
        (str(PROJECT), "./run.sh --data x"),
        ("", "./run.sh --data x"),
        (f"{PROJECT}/egs/mini", "cd egs/mini && ./run.sh --data x"),
        ("/home/of/me/my lists", "cd ~/'my lists' && ./run.sh --data x"),
        ("/lists", "cd /lists && ./run.sh --data x"),
    ],
)
def test_the_command_says_where_its_relative_paths_begin(called: str, wanted: str) -> None:
    environment = {"LMU_ASR_COMMAND": "./run.sh --data x", "HOME": "/home/of/me"}
    environment["LMU_ASR_CALLER_DIR"] = called
    assert command_from_project(environment) == wanted
    assert command_from_project({"LMU_ASR_CALLER_DIR": called}) == ""
