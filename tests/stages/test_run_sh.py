"""The driver's command line: what is refused, what is suggested, what is printed."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "run.sh", *arguments], capture_output=True, text=True, check=False, cwd="/"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stagee", "3"], "unknown option --stagee; did you mean --stage?"),
        (["--ngpus", "3"], "did you mean --ngpu?"),
        (["--exp", "x"], "did you mean --exp-dir?"),
        (["--stage"], "--stage wants a value"),
        (["--stage", "9"], "want 0 to 6"),
        (["--nj", "two"], "want a number"),
        (["train"], "unexpected argument 'train'"),
        (["--recipe", "mni"], "did you mean mini?"),
        (["--variant", "defalt"], "did you mean default?"),
        (["--set", "train.lrr=1"], "did you mean 'train.lr'?"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--stop-stage" in done.stdout


def test_a_failing_stage_prints_the_line_that_resumes_it(tmp_path: Path) -> None:
    arguments = [
        "--stage",
        "3",
        "--data-dir",
        str(tmp_path / "d"),
        "--exp-dir",
        str(tmp_path / "e"),
    ]
    done = run(*arguments)
    assert done.returncode == 1
    assert "stage 3 (graph) stopped with status 1. To go on:" in done.stderr
    assert " ".join(arguments) in done.stderr


def test_dry_run_makes_nothing(tmp_path: Path) -> None:
    done = run(
        "--dry-run",
        "--stop-stage",
        "0",
        "--data-dir",
        str(tmp_path / "d"),
        "--exp-dir",
        str(tmp_path / "e"),
    )
    assert done.returncode == 0
    assert "stage 0 (download): would run: not made yet" in done.stderr
    assert not (tmp_path / "d").exists() and not (tmp_path / "e").exists()


def test_the_driver_is_short() -> None:
    assert len((ROOT / "run.sh").read_text().splitlines()) < 150
