"""The whole recipe through run.sh, on a few minutes of synthetic speech: it ends in a table, re-runs
only what changed, survives SIGKILL in every stage, and takes a user's own data."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages.signals import Started

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("download", "features", "lang", "graph", "train", "decode", "results")
SMALL = (
    *("--set", "corpus.minutes=2.5", "--set", "corpus.speakers=8"),
    *("--set", "model.dim=32", "--set", "model.num_layers=2", "--set", "train.epochs=2"),
    *("--set", "train.max_duration=40", "--set", "train.checkpoint_every=2"),
    *("--set", "decode.bootstrap=200", "--set", "decode.lm_scales=[0.5]"),
)
# Where the plan of batches is not what is tested: measuring it takes half of so short a training.
UNMEASURED = ("--set", "train.autoconf=false")
pytestmark = pytest.mark.slow


def command(work: Path, *arguments: str) -> list[str]:
    directories = ("--data-dir", str(work / "data"), "--exp-dir", str(work / "exp"))
    return [str(ROOT / "run.sh"), *directories, "--ngpu", "0", "--nj", "2", *arguments]


def run(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        command(work, *arguments), capture_output=True, text=True, check=False, env=environment
    )
    print(done.stderr[-4000:])
    return done


def stages_run(stderr: str) -> list[str]:
    return re.findall(r"stage \d \((\w+)\): (?:would run|runs)", stderr)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file() and not p.name.startswith(".")
    }


def wers(work: Path) -> list[tuple[str, str, float]]:
    results = json.loads(next((work / "exp").glob("*/*/decode/results.json")).read_text())
    rows = results["results"] if isinstance(results, dict) else results
    return sorted((r["split"], r["method"], r["wer"]["rate"]) for r in rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("recipe")
    done = run(work, *SMALL)
    assert done.returncode == 0
    assert stages_run(done.stderr) == list(NAMES)
    for word in ("WER", "greedy", "HLG", "RTF", "95 %"):
        assert word in done.stdout
    return work


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Iterator[Path]:
    work = tmp_path / "copy"
    shutil.copytree(finished, work, symlinks=True)
    yield work
    shutil.rmtree(work)


def test_the_files_that_people_look_for(finished: Path) -> None:
    experiment = finished / "exp/mini/default"
    for name in ("best.pt", "last.pt", "metrics.jsonl", "train.png", "config.yaml"):
        assert (experiment / name).stat().st_size > 0, name
    names = {p.name for p in (experiment / "decode").iterdir()}
    for split in ("dev", "test"):
        for method in ("greedy", "HLG"):
            assert {f"recogs-{split}-{method}.txt", f"errs-{split}-{method}.txt"} <= names
        assert f"wer-summary-{split}.txt" in names
    assert (finished / "exp/mini/RESULTS.md").is_file()


def test_again_is_up_to_date(finished: Path) -> None:
    done = run(finished, *SMALL)
    assert done.returncode == 0
    assert stages_run(done.stderr) == []
    assert done.stderr.count("up to date") == len(NAMES)
    assert "WER" in done.stdout


def test_a_changed_key_runs_what_depends_on_it(finished: Path) -> None:
    before = digests(finished / "exp")
    done = run(finished, *SMALL, "--set", "train.lr=1e-4", "--dry-run")
    assert stages_run(done.stderr) == ["train", "decode", "results"]
    assert digests(finished / "exp") == before
    done = run(finished, *SMALL, "--set", "lm.order=2", "--dry-run", "--stop-stage", "3")
    assert stages_run(done.stderr) == ["graph"]


def test_a_changed_learning_rate_runs_4_to_6(copy: Path) -> None:
    done = run(copy, *SMALL, "--set", "train.lr=1e-4", "--set", "train.max_steps=2")
    assert done.returncode == 0
    assert stages_run(done.stderr) == ["train", "decode", "results"]
    assert list((copy / "exp/mini/default").glob("superseded-*/last.pt"))


def test_an_edited_wav_runs_from_1_and_a_touched_one_runs_nothing(copy: Path) -> None:
    wav = next((copy / "data/mini/source/train").rglob("*.wav"))
    wav.touch()
    assert stages_run(run(copy, *SMALL).stderr) == []
    with open(wav, "r+b") as stream:
        stream.seek(2000)
        stream.write(bytes(8000))  # a quarter of a second is silent now
    done = run(copy, *SMALL)
    assert done.returncode == 0
    assert stages_run(done.stderr) == list(NAMES[1:])


# A stage is killed while it moves such a file into place, with fewer than so many there already;
# training after a step.
MOMENTS = {
    0: ("*.wav", 4),
    1: ("*.lca", 3),
    2: ("lang.json", 1),
    3: ("*.fst", 3),
    4: ("-", 4),
    5: ("recogs-*.txt", 4),
    6: ("RESULTS.md", 1),
}


def test_sigkill_in_every_stage(finished: Path, tmp_path: Path) -> None:
    """Each stage alone is killed at a random moment (RECIPE_KILLS=N draws others), then the same
    command completes it."""
    chance = random.Random(int(os.environ.get("RECIPE_KILLS", "0")))
    for stage, (pattern, most) in MOMENTS.items():
        arguments = (*SMALL, "--stage", str(stage), "--stop-stage", str(stage))
        after = chance.randrange(most)
        print(f"stage {stage}: killed at {pattern} after {after}")
        child = Started(command(tmp_path, *arguments), tmp_path / "logs", pattern, after=after)
        child.wait_for(child.mark)
        child.end()  # by SIGKILL, all its processes
        assert child.process.returncode == -signal.SIGKILL
        assert run(tmp_path, *arguments).returncode == 0
    for part in ("source", "fbank80", "lang-char"):
        assert digests(tmp_path / "data/mini" / part) == digests(finished / "data/mini" / part)
    assert wers(tmp_path) == wers(finished)


def test_two_processes_lose_as_one_does(finished: Path, tmp_path: Path) -> None:
    """After 20 steps at the same global batch, without dropout, the losses agree to 1e-4."""
    losses = []
    for processes in ("1", "2"):
        work = tmp_path / processes
        shutil.copytree(finished / "data", work / "data", symlinks=True)
        done = run(
            work,
            *SMALL,
            *UNMEASURED,
            *(
                "--set",
                "model.dropout=0",
                "--set",
                "train.epochs=20",
                "--set",
                "train.max_steps=20",
            ),
            *("--set", "train.log_every=1", "--stage", "1", "--stop-stage", "4"),
            *("--nproc", processes),
        )
        assert done.returncode == 0
        lines = (work / "exp/mini/default/metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        losses.append({r["step"]: r["loss"] for r in rows if "loss" in r})
    assert losses[0].keys() == losses[1].keys() and 20 in losses[0]
    assert losses[1][20] == pytest.approx(losses[0][20], rel=1e-4)


def own_utterances(finished: Path) -> list[tuple[str, str, Path]]:
    found = []
    for transcript in sorted((finished / "data/mini/source/train").rglob("*.trans.txt")):
        for line in transcript.read_text().splitlines():
            name, _, text = line.partition(" ")
            found.append((name, text, transcript.parent / f"{name}.wav"))
    return found[:20]


OWN = (*SMALL[4:], "--set", "train.epochs=1", *UNMEASURED)


def test_own_kaldi_directory(finished: Path, tmp_path: Path) -> None:
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    items = own_utterances(finished)
    (kaldi / "wav.scp").write_text("".join(f"{n} {p}\n" for n, _, p in items))
    (kaldi / "text").write_text("".join(f"{n} {t}\n" for n, t, _ in items))
    (kaldi / "utt2spk").write_text("".join(f"{n} {n.split('-')[0]}\n" for n, _, _ in items))
    done = run(tmp_path, "--data", str(kaldi), *OWN)
    assert done.returncode == 0
    assert "WER" in done.stdout


def test_own_jsonl(finished: Path, tmp_path: Path) -> None:
    items = own_utterances(finished)
    lines = [json.dumps({"key": n, "source": str(p), "target": t}) for n, t, p in items]
    (tmp_path / "list.jsonl").write_text("\n".join(lines) + "\n")
    done = run(tmp_path, "--data", str(tmp_path / "list.jsonl"), *OWN)
    assert done.returncode == 0
    assert "WER" in done.stdout


def in_small_disk(work: Path, options: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where work/data is a tmpfs of its own (user and mount namespace)."""
    (work / "data").mkdir(parents=True)
    mounted = f"mount -t tmpfs -o {options} none {work}/data && {script}"
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", mounted], capture_output=True, text=True, check=False
    )
    print(done.stderr[-3000:])
    return done


def can_mount() -> bool:
    """Whether this user may mount in a name space of its own: containers often forbid it."""
    command = ["unshare", "-rm", "true"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


MOUNTS = pytest.mark.skipif(not can_mount(), reason="unshare -rm is not allowed here")


@MOUNTS
def test_a_full_disk_then_a_larger_one(finished: Path, tmp_path: Path) -> None:
    line = " ".join(command(tmp_path, *SMALL, "--stop-stage", "1"))
    first = in_small_disk(
        tmp_path,
        "size=3m",
        f"{line}; test $? = 1 && mount -o remount,size=300m {tmp_path}/data && {line} "
        f"&& cp -r {tmp_path}/data/mini {tmp_path}/kept",
    )
    assert first.returncode == 0
    assert "the disk is full" in first.stderr
    for part in ("source", "fbank80"):
        assert digests(tmp_path / "kept" / part) == digests(finished / "data/mini" / part)


@MOUNTS
def test_an_unwritable_directory(tmp_path: Path) -> None:
    line = " ".join(command(tmp_path, *SMALL, "--stop-stage", "0"))
    done = in_small_disk(tmp_path, "ro,size=1m", line)
    assert done.returncode == 1
    assert "Read-only file system; no permission" in done.stderr or "read-only" in done.stderr
