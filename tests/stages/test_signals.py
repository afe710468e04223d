"""Five signals in every stage, to the driver alone and to its group: it ends whole and goes on.

A part of the table runs here (SIGQUIT is in tests/test_guard.py and test_stop.py); all of it with
``LMU_ASR_SIGNALS=all``.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from lmu_asr.checkpoints.checkpoint import CheckpointStore
from tests.stages.signals import ROOT, SIGNALS, Started
from tests.training.processes import NO_TORCHRUN

ALL = os.environ.get("LMU_ASR_SIGNALS") == "all"
WAYS = list(product(SIGNALS, (False, True)))
OPTIONS = (
    *("corpus.minutes=0.6", "corpus.speakers=4", "features.num_mel_bins=20"),
    *("model.dim=16", "model.num_layers=1", "model.subsampling=2", "model.subsampling_channels=4"),
    *("model.lmu.memory_order=4", "model.lmu.thetas=[4]", "train.epochs=1", "train.average=1"),
    *("train.max_duration=4", "train.tensorboard=false", "train.autoconf=false"),
    *("decode.bootstrap=100", "decode.lm_scales=[0.5]"),
)
# a stage is stopped while it moves such a file into place; training after a step
FILES = {
    0: "*.wav",
    1: "*.lca",
    2: "lang.json",
    3: "HLG.fst",
    4: "-",
    5: "recogs-*.txt",
    6: "RESULTS.md",
}
pytestmark = pytest.mark.slow


def command(work: Path, stage: int, *options: str, last: int | None = None) -> list[str]:
    sets = [item for option in OPTIONS for item in ("--set", option)]
    places = ["--data-dir", str(work / "data"), "--exp-dir", str(work / "exp"), "--ngpu", "0"]
    stages = ["--stage", str(stage), "--stop-stage", str(stage if last is None else last)]
    return [str(ROOT / "run.sh"), *stages, *places, "--nj", "2", *sets, *options]


def ways(place: int) -> list[tuple[signal.Signals, bool]]:
    """All ways to stop the stage, or one of them, another for each place."""
    return WAYS if ALL else [WAYS[place % len(WAYS)]]


def check_stop(work: Path, stage: int, place: int, *options: str) -> None:
    """Stop a stage; nothing is left running, the status and one line tell what happened."""
    for number, to_group in ways(place):
        if stage == 4 and ALL:  # each stop from the start: a run that goes on is soon at its end
            shutil.rmtree(work / "exp/mini/default", ignore_errors=True)
        started = Started(command(work, stage, *options), work / "logs", FILES[stage])
        status, output = started.stop(number, to_group)
        at = f"stage {stage} {options} {number.name} group={to_group}:\n{started.output()[-3000:]}"
        assert status == 128 + number, at
        assert started.orphans == [], at
        assert (
            f"stopped by {number.name} (status {128 + number}). To go on:\n  ./run.sh" in output
        ), at
        assert started.output().count("To go on:") == 1, at
        assert "Traceback" not in output, at
        if stage == 4:
            assert CheckpointStore(work / "exp/mini/default", 1).steps(), at


def finish(work: Path, stage: int, *options: str, last: int | None = None) -> None:
    started = Started(command(work, stage, *options, last=last), work / "logs")
    assert started.finish() == 0, started.output()


def leftovers(work: Path) -> list[Path]:
    return [path for path in work.rglob(".*.tmp*") if "lmu-asr" not in str(path)]


@NO_TORCHRUN
def test_every_stage_in_turn(tmp_path: Path) -> None:
    for place, stage in enumerate(FILES):
        if stage == 4:
            check_stop(tmp_path, 4, 7, "--nproc", "2")
        check_stop(tmp_path, stage, place)
        finish(tmp_path, stage)
    assert leftovers(tmp_path) == []
    assert (tmp_path / "exp/mini/RESULTS.md").is_file()


@pytest.mark.extras
@NO_TORCHRUN
def test_training_under_other_launchers(tmp_path: Path) -> None:
    finish(tmp_path, 0, last=3)
    check_stop(tmp_path, 4, 5, "--launcher", "accelerate", "--nproc", "2", "--max-restarts", "2")
    check_stop(tmp_path, 4, 2, "--launcher", "ray", "--nproc", "2", "--max-restarts", "2")
    finish(tmp_path, 4, "--launcher", "accelerate", "--nproc", "2")


@pytest.mark.parametrize("victim", ["driver", "guard"])
def test_a_kill_leaves_no_orphans(tmp_path: Path, victim: str) -> None:
    finish(tmp_path, 0)
    started = Started(command(tmp_path, 1), tmp_path / "logs", FILES[1])
    started.wait_for(started.mark)
    everything = started.alive()
    assert len(everything) >= 5  # the driver, a guard, stage 1 and two workers
    os.kill(everything[0] if victim == "driver" else everything[1], signal.SIGKILL)
    deadline = time.monotonic() + 240
    while started.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    started.end()
    assert started.orphans == []


def test_a_stage_by_itself(tmp_path: Path) -> None:
    finish(tmp_path, 0)
    config = str(tmp_path / "exp/mini/default/resolved.yaml")
    stage = [sys.executable, "-m", "lmu_asr.stages.features", "--config", config, "--nj", "2"]
    stage += ["--data-dir", str(tmp_path / "data")]
    started = Started(stage, tmp_path / "logs", FILES[1])
    status, output = started.stop(signal.SIGINT, True)
    assert status == 130
    assert started.orphans == []
    again = "-m lmu_asr.stages.features --config"
    assert output.startswith("stage 1 (features) stopped by SIGINT (status 130). To go on:\n")
    assert again in output and "Traceback" not in output
    # workers that had to be killed on a busy machine leave temporary files to the next run
    again_started = Started(stage, tmp_path / "logs")
    assert again_started.finish() == 0, again_started.output()
    assert leftovers(tmp_path) == []
