"""The driver's command line: what is refused, what is suggested, what is printed."""

import json
import os
import shlex
import shutil
import subprocess
import wave
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "5", "--stop-stage", "3"], "--stop-stage 3 comes before --stage 5"),
        (["--nj", "0"], "--nj 0: want 1 or more"),
        (["--nproc", "00"], "--nproc 0: want 1 or more"),
        (["--data", "--force"], "option --data wants a value"),
        *[
            (words, f"option {words[0].partition('=')[0]} has an empty value")
            for words in (
                ["--data", ""],
                ["--data="],
                ["--recipe", ""],
                ["--exp-dir", ""],
                ["--fsa="],
                ["--nj", ""],
                ["--variant", ""],
                ["--set", ""],
            )
        ],
        (
            ["--launcher", "nosuch"],
            "--launcher nosuch: want auto, plain, torchrun, accelerate or ray",
        ),
        (["--fsa", "nosuch"], "--fsa nosuch: want auto, k2 or openfst"),
        (
            ["--dry-run", "--set", "corpus.mirror=nonsense"],
            "--set corpus.mirror=nonsense: want an address",
        ),
        (["--set", "corpus.dev=train"], "corpus.dev names 'train', which is the training set"),
        (["--force=maybe"], "--force is a flag"),
        (["--variant", "../../conf/gpu"], "--variant '../../conf/gpu': want a name"),
        (["--set", "corpus.id=.."], "--set corpus.id=..: want a name"),
    ],
)
def test_options_that_contradict_or_lead_astray(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr


def stand_in(tmp_path: Path) -> Path:
    """The driver in a directory with blanks; its Python only writes down how it was called."""
    project = tmp_path / "a project's  directory"
    (project / "bin").mkdir(parents=True)
    (project / "egs" / "own").mkdir(parents=True)
    (project / "utils").symlink_to(ROOT / "utils")
    python = project / "bin" / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'printf \'%s\\n\' "$LMU_ASR_COMMAND" "$@" END >>{shlex.quote(str(tmp_path / "calls"))}\n'
        "[[ $* == *stages.configure* ]] && echo resolved.yaml\n"
        "[[ $* == *stages.graph* ]] && exit 7\n"
        "exit 0\n"
    )
    python.chmod(0o755)
    (project / "path.sh").write_text(f"export PATH={shlex.quote(str(python.parent))}:$PATH\n")
    for name in ("run.sh", "egs/own/run.sh"):
        shutil.copy(ROOT / name, project / name)
    return project


def calls(tmp_path: Path) -> list[list[str]]:
    """The command line to go on with and the arguments of each call of Python."""
    found = (tmp_path / "calls").read_text().removesuffix("END\n").split("END\n")
    return [call.splitlines() for call in found]


def value(call: list[str], option: str) -> str:
    return call[call.index(option) + 1]


@pytest.mark.parametrize("script", ["run.sh", "egs/own/run.sh"])
def test_relative_paths_mean_the_directory_of_the_caller(tmp_path: Path, script: str) -> None:
    project, caller = stand_in(tmp_path), tmp_path / "my lists"
    caller.mkdir()
    arguments = ["--data", "list.csv", "--data-dir", "d 1", "--stage", "3", "--force", "--nj=1"]
    done = subprocess.run(
        ["bash", str(project / script), *arguments],
        cwd=caller,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CDPATH": str(tmp_path)},
    )
    assert done.returncode == 7, done.stderr
    configure, graph = calls(tmp_path)
    assert value(configure, "--data") == "list.csv"
    assert value(configure, "--caller-dir") == str(caller)
    assert value(configure, "--recipe") == "own"
    assert value(graph, "--data-dir") == str(caller / "d 1")
    assert value(graph, "--exp-dir") == "exp" and "--force" in graph
    # the line that goes on works from here, and does not start a forced run anew
    line = done.stderr.splitlines()[-1].strip()
    assert line == graph[0] and "--force" not in line
    again = subprocess.run(["bash", "-c", line], cwd=caller, capture_output=True, check=False)
    assert again.returncode == 7
    _, _, configure, again_graph = calls(tmp_path)
    assert value(configure, "--caller-dir") == str(caller)
    assert again_graph[1:] == [word for word in graph[1:] if word != "--force"]


def test_a_job_that_is_queued_again_is_not_forced(tmp_path: Path) -> None:
    project = stand_in(tmp_path)
    for count in ("0", "1"):
        environment = {**os.environ, "SLURM_RESTART_COUNT": count}
        command = [project / "run.sh", "--force", "--stage", "4", "--stop-stage", "4"]
        assert subprocess.run(command, env=environment, check=False).returncode == 0
    first, second = (call for call in calls(tmp_path) if "lmu_asr.stages.train" in call)
    assert "--force" in first and "--force" not in second


def test_flags_can_be_given_twice_and_with_a_value(tmp_path: Path) -> None:
    project = stand_in(tmp_path)
    command = [project / "run.sh", "--force", "--force", "--dry-run=false", "--stop-stage=0"]
    assert subprocess.run(command, check=False).returncode == 0
    assert [call[2] for call in calls(tmp_path)] == [
        "lmu_asr.stages.configure",
        "lmu_asr.stages.download",
    ]
    assert "--force" in calls(tmp_path)[1]


def test_dry_run_from_a_directory_with_blanks_says_what_cannot_work(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    command = [ROOT / "run.sh", "--dry-run", "--data", "c d", "--set", "lm.text=e f.txt"]
    done = subprocess.run(
        command, cwd=tmp_path / "a b", capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    for name, key in (("c d", "corpus.source"), ("e f.txt", "lm.text")):
        fault = f"{tmp_path / 'a b' / name}: No such file or directory"
        assert any(fault in line and key in line for line in done.stderr.splitlines())
    assert not list((tmp_path / "a b").iterdir())


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


def test_a_link_to_the_driver(tmp_path: Path) -> None:
    (tmp_path / "link.sh").symlink_to(ROOT / "run.sh")
    done = subprocess.run([tmp_path / "link.sh", "--help"], capture_output=True, check=False)
    assert done.returncode == 0 and done.stderr == b""


def test_a_node_that_there_is_not(tmp_path: Path) -> None:
    places = ["--data-dir", str(tmp_path / "d"), "--exp-dir", str(tmp_path / "e")]
    done = run("--dry-run", "--num-nodes", "2", "--node-rank", "5", *places)
    assert done.returncode == 1
    assert "--node-rank 5 is outside --num-nodes 2" in done.stderr


def test_a_shell_that_is_not_bash_hands_over() -> None:
    for script in ("run.sh", "egs/own/run.sh", "utils/setup.sh"):
        arguments = ["sh", str(ROOT / script), "--help"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), script


def test_a_directory_of_temporary_files_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "run.sh", "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path / "none")},
    )
    assert done.returncode == 2 and f"TMPDIR={tmp_path}/none: no temporary files" in done.stderr


def test_audio_of_a_list_is_looked_up_where_the_user_calls_from(tmp_path: Path) -> None:
    kaldi = tmp_path / "caller" / "data" / "all"
    kaldi.mkdir(parents=True)
    write_tones(tmp_path / "caller" / "audio", 12)
    names = [f"u{i:02d}" for i in range(12)]
    (kaldi / "wav.scp").write_text("".join(f"{n} audio/{n}.wav\n" for n in names))
    (kaldi / "text").write_text("".join(f"{n} well yes\n" for n in names))
    command = [ROOT / "run.sh", "--data", "data/all", "--stop-stage", "1", "--nj", "1"]
    places = ["--data-dir", "d", "--exp-dir", "e"]
    done = subprocess.run(
        [*command, *places], cwd=kaldi.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads(p.read_text()) for p in kaldi.parents[1].glob("d/all/*/*_report.json")]
    assert sum(report["kept"] for report in reports) == 12 and len(reports) == 3


def write_tones(folder: Path, count: int) -> None:
    """``u00.wav`` and so on, of half a second each."""
    folder.mkdir()
    for i in range(count):
        with wave.open(str(folder / f"u{i:02d}.wav"), "wb") as stream:
            stream.setparams((1, 2, 8000, 0, "NONE", ""))
            stream.writeframes(bytes([i, 1, 0, 0] * 2000))
