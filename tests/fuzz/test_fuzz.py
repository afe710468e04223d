"""No file that a user may bring ends in a traceback, takes long, or loses rows in silence.

``LMU_ASR_FUZZ`` is the number of inputs of each target. ``python -m tests.fuzz`` is the long run.
"""

from __future__ import annotations

import os

import pytest

from tests.fuzz.harness import run
from tests.fuzz.targets import TARGETS

COUNT = int(os.environ.get("LMU_ASR_FUZZ", "2000"))


@pytest.mark.parametrize("name", TARGETS)
def test_changed_files(name, tmp_path):
    report = run(TARGETS[name](), tmp_path, range(COUNT))
    print(report.line())
    assert not report.faults, "\n".join(f"{k}\n{t}" for k, t in report.faults.items())
