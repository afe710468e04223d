"""The command line of utils/test.sh."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "utils/test.sh"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_help_has_every_option() -> None:
    done = run("--help")
    assert done.returncode == 0
    for option in ("--k2", "--extras", "--fast", "--random", "--seed", "what follows --"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "x"], "--seed x: want a number"),
        (["--sede=3"], "did you mean --seed?"),
        (["tests/lang"], "unexpected argument 'tests/lang'"),
        (["--randon", "--", "--random"], "did you mean --random?"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
