"""Commands of wav.scp: run once, kept as FLAC, each failure listed with its reason, nothing left running."""

from __future__ import annotations

import logging
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lmu_asr.config import CorpusConfig, FeaturesConfig
from lmu_asr.data.importing import pipes as module
from lmu_asr.data.importing.importers import import_data
from lmu_asr.data.importing.pipes import Pipes, command_inputs, piped, pipes_of, plain_chain
from lmu_asr.data.importing.validate import validate_and_repair
from lmu_asr.errors import DataError
from tests.data.speech import RATE, noise, write_audio


def script(path: Path, text: str) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def pipes(tmp_path) -> Pipes:
    return Pipes(tmp_path / "kept", tmp_path, 20.0, 2)


def kaldi(folder: Path, commands: dict[str, str], segments: str = "") -> Path:
    """Write a Kaldi data directory of commands."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wav.scp").write_text("".join(f"{k} {v}\n" for k, v in commands.items()))
    names = [line.split()[0] for line in segments.splitlines()] or list(commands)
    (folder / "text").write_text("".join(f"{name} words of {name}\n" for name in names))
    if segments:
        (folder / "segments").write_text(segments)
    return folder


def audio_of(manifests) -> dict[str, tuple[np.ndarray, str]]:
    """Samples as stored and their format, by recording."""
    found = {}
    for recording in manifests.recordings:
        path = recording.sources[0].source
        bits = soundfile.info(path).subtype
        kind = "int16" if bits == "PCM_16" else "int32"
        found[recording.id] = soundfile.read(path, dtype=kind)[0], bits
    return found


@pytest.mark.parametrize(
    ("command", "chain"),
    [
        ("flac -c -d -s a.flac |", [["flac", "-c", "-d", "-s", "a.flac"]]),
        ("sph2pipe -f wav -p -c 1 a.sph|", [["sph2pipe", "-f", "wav", "-p", "-c", "1", "a.sph"]]),
        (
            "cat 'a b.wav' | sox -t wav - -t wav - |",
            [["cat", "a b.wav"], ["sox", "-t", "wav", "-", "-t", "wav", "-"]],
        ),
        (r'cat "a|b\"c.wav" d\ e.wav |', [["cat", 'a|b"c.wav', "d e.wav"]]),
        ("cat 'a$b;c*.wav' |", [["cat", "a$b;c*.wav"]]),
        ("cat ä.wav |", [["cat", "ä.wav"]]),
        ("cat < a.wav |", None),
        ("cat *.wav |", None),
        ("cat ~/a.wav |", None),
        ("cat $HOME/a.wav |", None),
        ('cat "$HOME/a.wav" |', None),
        (r'cat "\$a.wav" |', None),
        ("cat `ls` |", None),
        ("cd x && cat a.wav |", None),
        ("A=1 cat a.wav |", None),
        ("cat 'a.wav |", None),
        ("cat a.wav || true |", None),
        ("| cat a.wav |", None),
        ("|", None),
    ],
)
def test_what_runs_without_a_shell(command, chain):
    assert plain_chain(command) == chain


def test_files_that_a_command_names(tmp_path):
    for name in ("a.wav", "b c.wav", "model.bin", "cat"):
        (tmp_path / name).touch()
    named = {
        "cat a.wav |": ["a.wav"],
        "./cat --in=a.wav 'b c.wav' -x | sox --model=model.bin - |": [
            "a.wav",
            "b c.wav",
            "model.bin",
        ],
        f"cat < {tmp_path}/a.wav; true |": ["cat", "a.wav"],  # of a shell's, all words
        "cat 'a.wav |": ["cat"],
        f"cat {'x' * 5000} missing.wav |": [],
    }
    for command, files in named.items():
        assert command_inputs(command, tmp_path) == [tmp_path / f for f in files], command


def test_samples_are_those_of_the_source(tmp_path, pipes):
    samples = noise(0.3, 1)
    ints = np.rint(samples[:, 0] * 2**15).astype(np.int16)
    soundfile.write(tmp_path / "plain.wav", ints, RATE)
    stereo = np.rint(noise(0.3, 2, 2) * 2**23).astype(np.int32) << 8
    soundfile.write(tmp_path / "deep.wav", stereo, 44100, subtype="PCM_24")
    soundfile.write(tmp_path / "float.wav", samples, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "loud.wav", samples * 2**15, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "phone.wav", samples, 8000, subtype="ULAW")
    soundfile.write(tmp_path / "a.flac", ints, RATE)
    data = bytearray((tmp_path / "plain.wav").read_bytes())
    for name, size in (("sox", 0x7FFFF000), ("ffmpeg", 0xFFFFFFFF), ("none", 0)):
        data[40:44] = struct.pack("<I", size)
        (tmp_path / f"{name}.wav").write_bytes(data)
    stems = ("plain", "deep", "float", "loud", "phone", "sox", "ffmpeg", "none")
    commands = {name: f"cat {name}.wav |" for name in stems} | {"flac": "cat a.flac | cat |"}
    found = audio_of(import_data(kaldi(tmp_path / "data", commands), pipes=pipes))
    for name in ("plain", "sox", "ffmpeg", "none", "flac"):
        assert found[name][1] == "PCM_16", name
        np.testing.assert_array_equal(found[name][0], ints)
    np.testing.assert_array_equal(found["deep"][0], stereo)
    assert found["deep"][1] == "PCM_24" and found["phone"][1] == "PCM_16"
    np.testing.assert_array_equal(
        found["phone"][0], soundfile.read(tmp_path / "phone.wav", dtype="int16")[0]
    )
    for name in ("float", "loud"):
        np.testing.assert_allclose(found[name][0] / 2**31, samples[:, 0], atol=2**-23)


def test_each_runs_once_until_it_or_its_file_changes(tmp_path, pipes):
    write_audio(tmp_path / "a.wav", 0.3)
    script(tmp_path / "bin" / "show", f'echo "$@" >> {tmp_path}/log; cat "$1"')
    same = {f"u{i}": "bin/show a.wav |" for i in range(3)}
    folder = kaldi(tmp_path / "data", {**same, "v": "bin/show  a.wav 1 |"})

    def runs() -> int:
        import_data(folder, pipes=pipes)
        return len((tmp_path / "log").read_text().splitlines())

    assert runs() == 2 and runs() == 2
    os.utime(tmp_path / "a.wav", ns=(1, 1))
    assert runs() == 4 and runs() == 4
    kaldi(tmp_path / "data", {**same, "v": "bin/show a.wav 2 |"})
    assert runs() == 5
    next(pipes.folder.glob("*/*.flac")).write_bytes(b"")  # emptied by a full disk
    assert runs() >= 5 and runs() <= 6
    assert not list(pipes.folder.glob(".*"))


def test_segments(tmp_path, pipes):
    write_audio(tmp_path / "a.wav", 1.0)
    script(tmp_path / "show", f'echo run >> {tmp_path}/log; cat "$1"')
    folder = kaldi(tmp_path / "data", {"r": "./show a.wav |"}, "r-1 r 0.0 0.4\nr-2 r 0.4 0.9\n")
    found = import_data(folder, pipes=pipes)
    assert [(s.id, s.start, s.duration) for s in found.supervisions] == [
        ("r-1", 0.0, 0.4),
        ("r-2", 0.4, 0.5),
    ]
    assert (tmp_path / "log").read_text() == "run\n"
    assert list(found.files) == [str(tmp_path / "a.wav")]  # what is read, not what is kept


FAILING = {
    "missing": ("sph2pipe-of-nowhere a.sph |", "sph2pipe-of-nowhere: command not found; install"),
    "later": ("cat a.wav | sph2pipe-of-nowhere |", "sph2pipe-of-nowhere: command not found"),
    "status": ("./fail a.wav |", "./fail: exit status 3, two of stderr"),
    "first": ("./fail a.wav | cat a.wav |", "./fail: exit status 3, two of stderr"),
    "signal": ("./die a.wav |", "./die: signal 15"),
    "nothing": ("true a.wav |", "printed nothing"),
    "text": ("echo a.wav |", "printed no audio that can be kept: not readable as audio"),
    "short": ("head -c 3000 a.wav |", "printed no audio that can be kept: cut short"),
    "nan": ("cat nan.wav |", "printed no audio that can be kept: 1 NaN or infinite samples"),
    "wide": ("cat wide.wav |", "printed what FLAC cannot hold: 9 channels, 16000 Hz"),
    "shell": ("cat a.wav; exit 5 |", "bash: exit status 5"),
    "quotes": ("cat 'a.wav |", "bash: exit status"),
    "empty": ("|", "printed nothing"),
}


def test_failures_are_dropped_and_listed_with_their_reason(tmp_path, pipes):
    write_audio(tmp_path / "a.wav", 0.3)
    samples = noise(0.3, channels=9)
    soundfile.write(tmp_path / "wide.wav", samples, RATE)
    samples = samples[:, 0]
    samples[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    script(
        tmp_path / "fail", "echo one >&2; printf 'two\\tof\\033stderr\\n\\n' >&2; cat $1; exit 3"
    )
    script(tmp_path / "die", "kill -TERM $$")
    good = {f"good{i}": f"cat a.wav | cat | head -c {20000 + i} |" for i in range(len(FAILING))}
    good["early"] = "cat a.wav /dev/zero | head -c 9644 |"  # head ends cat by SIGPIPE
    commands = {name: command for name, (command, _) in FAILING.items()}
    found = import_data(kaldi(tmp_path / "data", {**commands, **good}), pipes=pipes)
    assert {r.id for r in found.recordings} == set(good)
    for name, (_, reason) in FAILING.items():
        assert found.problems[name].startswith("command "), name
        assert reason in found.problems[name].replace("  ", " "), (name, found.problems[name])
        assert found.problems[name].isprintable()
    kept, report = validate_and_repair(found, "train", FeaturesConfig(), str)
    assert len(kept.supervisions) == len(good)
    assert report.to_json()["counts"] == {"command without audio": len(FAILING)}
    folder = kaldi(tmp_path / "all", commands)
    with pytest.raises(
        DataError, match=r"no usable utterance of 13. First reasons: missing: command"
    ):
        validate_and_repair(import_data(folder, pipes=pipes), "train", FeaturesConfig(), str)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition) -> None:
    deadline = time.monotonic() + 240.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


LINGERS = 'sleep 99 & echo $! $$ > "$1".new; mv "$1".new "$1"; wait'


def pids(path: Path) -> list[int]:
    return [int(text) for text in path.read_text().split()] if path.exists() else []


def test_time_limit_ends_the_whole_group(tmp_path):
    script(tmp_path / "linger", LINGERS)
    limited = Pipes(tmp_path / "kept", tmp_path, 0.4, 2)
    commands = {
        "a": "./linger a.pid |",
        "b": "./linger b.pid | cat |",
        "c": "./linger c.pid; true |",
    }
    found = import_data(kaldi(tmp_path / "data", commands), pipes=limited)
    started = [pid for name in "abc" for pid in pids(tmp_path / f"{name}.pid")]
    wait_for(lambda: not any(map(alive, started)))
    for problem in found.problems.values():
        assert problem.startswith(
            "command ran for more than 0.00666667 min (corpus.pipe_minutes): "
        )
    assert len(found.problems) == 3


def test_a_stop_ends_what_runs(tmp_path, pipes):
    script(tmp_path / "linger", LINGERS)
    commands = [f"./linger {i}.pid |" for i in range(2)]
    items = [("", tmp_path), *((c, pipes.place(c)) for c in commands)]
    running = piped(items * 9, lambda item: item, pipes)
    assert next(running) == (("", tmp_path), "")
    wait_for(lambda: all(pids(tmp_path / f"{i}.pid") for i in range(2)))
    running.close()
    started = [pid for i in range(2) for pid in pids(tmp_path / f"{i}.pid")]
    wait_for(lambda: not any(map(alive, started)))
    assert not list(pipes.folder.glob("*/*"))


def test_what_a_success_leaves_running_is_ended_too(tmp_path, pipes):
    write_audio(tmp_path / "a.wav", 0.3)
    script(tmp_path / "leave", 'sleep 99 > /dev/null & echo $! > pid; cat "$1"')
    found = import_data(kaldi(tmp_path / "data", {"a": "./leave a.wav |"}), pipes=pipes)
    assert not found.problems
    wait_for(lambda: not alive(pids(tmp_path / "pid")[0]))


def test_too_much_output(tmp_path, pipes, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    found = import_data(kaldi(tmp_path / "data", {"a": "yes |"}), pipes=pipes)
    assert found.problems["a"].startswith("command printed more than")


def test_full_disk_is_no_fault_of_a_command(tmp_path, pipes, monkeypatch):
    monkeypatch.setattr(module, "LEAST_FREE", 1 << 60)
    with pytest.raises(OSError, match="No space left"):
        import_data(kaldi(tmp_path / "data", {"a": "false |"}), pipes=pipes)


def test_killed_run_goes_on(tmp_path, pipes):
    """What is kept stays, what was half-made goes."""
    write_audio(tmp_path / "a.wav", 0.3)
    folder = kaldi(tmp_path / "data", {"a": "cat a.wav |"})
    import_data(folder, pipes=pipes)
    kept = {p: p.stat().st_mtime_ns for p in pipes.folder.glob("*/*.flac")}
    (pipes.folder / ".run-killed" / "x").mkdir(parents=True)
    import_data(folder, pipes=pipes)
    assert {p: p.stat().st_mtime_ns for p in pipes.folder.glob("*/*")} == kept
    assert not list(pipes.folder.glob(".*"))


def test_longer_than_a_block(tmp_path, pipes, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 1000)
    write_audio(tmp_path / "a.wav", 0.3, channels=2)
    found = audio_of(import_data(kaldi(tmp_path / "data", {"a": "cat a.wav |"}), pipes=pipes))
    np.testing.assert_array_equal(
        found["a"][0], soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
    )


def test_what_is_run_is_said(tmp_path, pipes, caplog):
    write_audio(tmp_path / "a.wav", 0.3)
    commands = {"a": "cat a.wav |", "b": "cat < a.wav |", "c": "cat a* |"}
    with caplog.at_level(logging.INFO):
        assert not import_data(kaldi(tmp_path / "data", commands), pipes=pipes).problems
    assert "commands that need a shell, run by bash: 2 (the first: cat" in caplog.text
    assert f"commands run, what they print is kept in {pipes.folder}: 3 (the first:" in caplog.text


def test_refusals_say_what_to_do(tmp_path, pipes):
    folder = kaldi(tmp_path / "data", {"a": "a.wav", "b": "flac -c -d -s b.flac |"})
    with pytest.raises(DataError, match=r"wav.scp:2: 'b' is a command \(flac .*corpus.pipes=true"):
        import_data(folder)
    folder = kaldi(tmp_path / "data", {"a": "raw/wav.1.ark:1234"})
    with pytest.raises(
        DataError, match=r"wav.scp:1: 'a' is in a Kaldi archive .*wav-copy raw/wav.1"
    ):
        import_data(folder, pipes=pipes)


def test_where_commands_run(tmp_path, monkeypatch):
    assert pipes_of(CorpusConfig()) is None
    monkeypatch.setenv("LMU_ASR_CALLER_DIR", str(tmp_path / "caller"))
    found = pipes_of(
        CorpusConfig(pipes=True, pipe_dir=str(tmp_path), pipe_minutes=2.0, pipe_jobs=3)
    )
    assert found == Pipes(tmp_path, tmp_path / "caller", 120.0, 3)
    monkeypatch.delenv("LMU_ASR_CALLER_DIR")
    monkeypatch.chdir(tmp_path)
    assert pipes_of(CorpusConfig(pipes=True)).cwd == tmp_path


def test_a_program_of_this_environment(tmp_path, pipes):
    """Programs get nothing on their standard input, and the environment as it is."""
    write_audio(tmp_path / "a.wav", 0.3)
    code = "import sys; assert not sys.stdin.read(); sys.stdout.buffer.write(open('a.wav','rb').read())"
    (tmp_path / "show.py").write_text(code)
    folder = kaldi(tmp_path / "data", {"a": f"{sys.executable} -S -E show.py |"})
    assert not import_data(folder, pipes=pipes).problems
