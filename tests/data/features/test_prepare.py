"""Extraction to storage: the same bytes however it was run, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.audio.mono import FIRST_CHANNEL, SCALED
from lmu_asr.data.features import extraction as shards
from lmu_asr.data.features.fbank import get_extractor
from lmu_asr.data.features.part import read_shard
from lmu_asr.data.features.prepare import prepare_features, read_cuts
from lmu_asr.data.importing.validate import validate_and_repair
from lmu_asr.errors import DataError
from lmu_asr.files import read_json
from tests.data.speech import RATE, manifests, noise, tree_bytes, write_audio

ROOT = Path(__file__).resolve().parents[3]
DEFAULT = FeaturesConfig()
QUANTUM = 1 / 64 + 1e-6  # half of lilcom_chunky's step


@pytest.fixture
def small_shards(monkeypatch):
    """Two or three utterances of half a second in a shard."""
    monkeypatch.setattr(shards, "LEAST_SECONDS", 1.0)
    monkeypatch.setattr(shards, "SHARDS", 1000)
    monkeypatch.setattr(shards, "INLINE_SECONDS", 0.0)


def corpus(folder: Path, count: int = 10) -> dict[str, Path]:
    return {f"u{i}": write_audio(folder / f"u{i}.wav", 0.4 + i / 50, i) for i in range(count)}


def extract(paths, out, config=DEFAULT, nj=1, training=True):
    kept, report = validate_and_repair(manifests(paths), "train", config, str)
    return prepare_features(kept, "train", config, out, nj, training, report), report


def test_stored_features_are_the_extractors(tmp_path, small_shards):
    paths = corpus(tmp_path / "source")
    cuts, _ = extract(paths, tmp_path / "fbank")
    extractor = get_extractor(FeaturesConfig())
    for cut in cuts:
        samples, _ = soundfile.read(paths[cut.id], dtype="float32")
        found = cut.load_features()
        assert found.shape == (cut.num_frames, 80)
        assert np.abs(found - extractor(samples)).max() <= QUANTUM
        np.testing.assert_array_equal(cut.recording.load_audio()[0], samples)


def test_statistics_are_those_of_the_stored_values(tmp_path, small_shards):
    cuts, _ = extract(corpus(tmp_path / "source"), tmp_path / "fbank")
    stacked = np.concatenate([c.load_features() for c in cuts]).astype(np.float64)
    found = read_json(tmp_path / "fbank" / "cmvn.json")
    assert found["frames"] == len(stacked)
    np.testing.assert_allclose(found["mean"], stacked.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], stacked.std(axis=0), rtol=1e-9)


def test_processes_do_not_change_the_bytes(tmp_path, small_shards):
    config = FeaturesConfig(speed_perturb=[0.9, 1.1], dither=1e-5)
    paths = corpus(tmp_path / "source")
    for nj in (1, 2):
        extract(paths, tmp_path / f"fbank{nj}", config, nj)
    one, two = tree_bytes(tmp_path / "fbank1"), tree_bytes(tmp_path / "fbank2")
    assert len([name for name in one if name.endswith(".lca")]) >= 6
    assert one == two


def test_moved_directory(tmp_path, small_shards):
    paths = corpus(tmp_path / "here" / "source", 3)
    cuts, _ = extract(paths, tmp_path / "here" / "fbank")
    wanted = [c.load_features() for c in cuts]
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = read_cuts(tmp_path / "there" / "fbank" / "train_cuts.jsonl.gz")
    for cut, features in zip(moved, wanted, strict=True):
        np.testing.assert_array_equal(cut.load_features(), features)
        assert cut.recording.load_audio().shape[1] == cut.recording.num_samples


def test_only_the_changed_shard_is_made_again(tmp_path, small_shards):
    paths, out = corpus(tmp_path / "source"), tmp_path / "fbank"
    extract(paths, out)
    before = {p: p.stat().st_mtime_ns for p in (out / "feats").glob("*.lca")}
    write_audio(paths["u9"], 0.4 + 9 / 50, seed=77)
    extract(paths, out)
    changed = [p.name for p, t in before.items() if p.stat().st_mtime_ns != t]
    assert changed == [f"train-{len(before) - 1:05d}.lca"]


def test_damaged_and_left_over_files_are_replaced(tmp_path, small_shards):
    paths, out = corpus(tmp_path / "source"), tmp_path / "fbank"
    extract(paths, out)
    wanted = tree_bytes(out)
    archives = sorted((out / "feats").glob("*.lca"))
    archives[0].write_bytes(archives[0].read_bytes()[:-5])
    header = out / "feats" / "train-00001.jsonl.gz"
    header.write_bytes(header.read_bytes()[:40])
    assert read_shard(header) is None
    (out / "feats" / ".train-00002.lca.x.tmp.lca").write_bytes(b"half")
    (out / "feats" / "train-00099.lca").write_bytes(b"of a larger corpus")
    extract(paths, out)
    assert tree_bytes(out) == wanted


def test_speed(tmp_path):
    config = FeaturesConfig(speed_perturb=[0.9, 1.0, 1.1])
    cuts, report = extract(corpus(tmp_path / "source", 2), tmp_path / "fbank", config)
    cuts = list(cuts)
    assert [c.id for c in cuts] == ["u0", "u1", "u0_sp0.9", "u1_sp0.9", "u0_sp1.1", "u1_sp1.1"]
    assert [c.num_frames for c in cuts[::2]] == [40, 44, 36]
    assert all(len(c.load_features()) == c.num_frames for c in cuts)
    assert report.total == 2
    dev, _ = extract(corpus(tmp_path / "source", 2), tmp_path / "dev", config, training=False)
    assert len(list(dev)) == 2 and not (tmp_path / "dev" / "cmvn.json").exists()


def test_speed_moves_a_tone(tmp_path):
    times = np.arange(RATE) / RATE
    for name, hertz in (("u0", 1000.0), ("u1", 1100.0)):
        soundfile.write(tmp_path / f"{name}.wav", 0.3 * np.sin(2 * np.pi * hertz * times), RATE)
    paths = {name: tmp_path / f"{name}.wav" for name in ("u0", "u1")}
    cuts, _ = extract(paths, tmp_path / "fbank", FeaturesConfig(speed_perturb=[1.1]))
    found = {c.id: c.load_features().mean(axis=0).argmax() for c in cuts}
    assert found["u0_sp1.1"] == found["u1"] != found["u0"]


def test_eight_kilohertz_and_stereo(tmp_path):
    left, right = noise(0.5, 1), noise(0.5, 2)
    soundfile.write(tmp_path / "stereo.wav", np.hstack([left, right]), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", (left + right) / 2, RATE, subtype="FLOAT")
    write_audio(tmp_path / "slow.wav", 0.5, rate=8000)
    paths = {name: tmp_path / f"{name}.wav" for name in ("stereo", "mono", "slow")}
    cuts, report = extract(paths, tmp_path / "fbank")
    found = {c.id: c.load_features() for c in cuts}
    assert np.abs(found["stereo"] - found["mono"]).max() <= 1 / 32 + 1e-6
    assert found["slow"].shape == (50, 80)
    assert sorted(report.repaired) == [
        "2 channels averaged to one",
        "resampled from 8000 to 16000 Hz",
    ]


def test_broken_samples_are_dropped_and_listed(tmp_path, small_shards):
    paths = corpus(tmp_path / "source", 8)
    samples = noise(0.5)
    samples[100] = np.nan
    soundfile.write(paths["u1"], samples, RATE, subtype="FLOAT")
    paths["u2"] = write_audio(tmp_path / "source" / "u2.flac", 3.0)
    given = manifests(paths)
    data = paths["u2"].read_bytes()
    paths["u2"].write_bytes(data[: len(data) // 2])
    config, out = FeaturesConfig(), tmp_path / "fbank"
    kept, report = validate_and_repair(given, "train", config, str)
    cuts = prepare_features(kept, "train", config, out, 1, True, report)
    assert [c.id for c in cuts] == ["u0", "u3", "u4", "u5", "u6", "u7"]
    saved = read_json(out / "train_report.json")
    assert saved["counts"] == {"NaN or infinite samples": 1, "unreadable audio": 1}
    assert "1 NaN or infinite samples" in saved["dropped"]["u1"]
    assert "u2.flac" in saved["dropped"]["u2"]
    assert saved["kept"] == 6


def test_silent_audio_is_dropped_listed_and_counted(tmp_path, small_shards):
    paths = corpus(tmp_path / "source", 10)
    hiss = noise(0.5, 3)
    files = {
        "u1": (np.zeros(8000), RATE),
        "u3": (np.full(4000, 0.25), 8000),  # a constant, resampled
        "u5": (np.zeros((8000, 2)), RATE),
        "u7": (np.hstack([hiss, np.zeros_like(hiss)]), RATE),  # one channel is heard
        "u8": (np.concatenate([np.zeros(7999), [1e-4]]), RATE),  # one sample is not 0
    }
    for name, (samples, rate) in files.items():
        soundfile.write(paths[name], samples, rate, subtype="FLOAT")
    cuts, report = extract(paths, tmp_path / "fbank", FeaturesConfig(speed_perturb=[0.9]))
    kept = ["u0", "u2", "u4", "u6", "u7", "u8", "u9"]
    assert [c.id for c in cuts] == [*kept, *(f"{name}_sp0.9" for name in kept)]
    saved = read_json(tmp_path / "fbank" / "train_report.json")
    assert saved["counts"] == {"silent audio": 3} and saved["kept"] == 7
    assert saved["dropped"]["u3"].startswith("'u3' is silent: all of its 4000 samples are 0.25")
    assert "3 dropped: silent audio (u1, u3, u5)" in report.summary()


def test_samples_are_mended_counted_and_said(tmp_path, small_shards):
    paths = corpus(tmp_path / "source", 5)
    hiss = noise(0.5, 3)
    files = {
        "u0": hiss,
        "u1": hiss * 32768,  # 16-bit values as float
        "u2": np.hstack([hiss, -hiss]),  # nothing is left of its mean
        "u3": np.hstack([np.zeros_like(hiss), 2 * hiss]),  # not inverted: averaged
        "u4": hiss * 2.0**31,
    }
    for name, samples in files.items():
        soundfile.write(paths[name], samples, RATE, subtype="FLOAT")
    cuts, report = extract(paths, tmp_path / "fbank", FeaturesConfig(speed_perturb=[0.9]))
    found = {cut.id: cut.load_features() for cut in cuts}
    for name in ("u1", "u2", "u3"):
        assert np.abs(found[name] - found["u0"]).max() <= 1 / 32 + 1e-6
    assert report.repairs[SCALED] == report.repairs[FIRST_CHANNEL] == 1
    assert f"1 repaired: {SCALED} (u1); 1 repaired: {FIRST_CHANNEL} (u2)" in report.summary()
    assert "1 dropped: samples of an unknown scale (u4)" in report.summary()


def test_more_than_half_broken_stops_without_a_manifest(tmp_path):
    paths = corpus(tmp_path / "source", 3)
    for name in ("u0", "u1"):
        soundfile.write(paths[name], np.full(8000, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(DataError, match="2 of 3 utterances"):
        extract(paths, tmp_path / "fbank")
    assert not (tmp_path / "fbank" / "train_cuts.jsonl.gz").exists()


SCRIPT = """
import sys, time
from pathlib import Path
from tests.data.features import test_prepare as t
from lmu_asr.data.features import extraction as shards
shards.LEAST_SECONDS, shards.SHARDS, shards.INLINE_SECONDS = 1.0, 1000, 0.0
source, out, nj = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
make = shards.make_shard
def held(task):
    while len(list((out / "feats").glob("train-*.jsonl.gz"))) >= 6:
        time.sleep(0.01)  # until it is killed
    return make(task)
shards.make_shard = held
if __name__ == "__main__":
    paths = {p.stem: p for p in sorted(source.glob("*.wav"))}
    t.extract(paths, out, nj=nj)
"""


def run_script(tmp_path: Path, out: Path, nj: int) -> subprocess.Popen:
    script = tmp_path / "extract.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "source"), str(out), str(nj)]
    return subprocess.Popen(command, env=env, start_new_session=True, stderr=subprocess.PIPE)


def wait_for(condition, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the event that the test waits for never came"
        time.sleep(0.005)


@pytest.mark.parametrize("nj", [1, 2])
def test_killed_run_goes_on_to_the_same_bytes(tmp_path, nj, small_shards):
    paths = corpus(tmp_path / "source", 60)
    ordered = {p.stem: p for p in sorted(paths.values())}
    extract(ordered, tmp_path / "whole")
    out = tmp_path / "killed"
    process = run_script(tmp_path, out, nj)
    wait_for(lambda: len(list((out / "feats").glob("train-*.jsonl.gz"))) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "train_cuts.jsonl.gz").exists()
    wait_for(lambda: not _alive_in_session(process.pid))
    done = {p: p.stat().st_mtime_ns for p in (out / "feats").glob("train-*.jsonl.gz")}
    extract(ordered, out)
    assert tree_bytes(out) == tree_bytes(tmp_path / "whole")
    assert all(p.stat().st_mtime_ns == t for p, t in done.items())


def _alive_in_session(session: int) -> bool:
    """Whether a process of the killed run is left."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return True
    return False


def test_killed_worker_is_an_error_that_says_so(tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr(shards, "_start_worker", _die)
    with pytest.raises(DataError, match="run again"):
        extract(corpus(tmp_path / "source"), tmp_path / "fbank", nj=2)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_header_is_json(tmp_path, small_shards):
    extract(corpus(tmp_path / "source", 3), tmp_path / "fbank")
    shard = read_shard(tmp_path / "fbank" / "feats" / "train-00000.jsonl.gz")
    assert shard.frames == sum(c["features"]["num_frames"] for c in shard.cuts())
    assert str(tmp_path) not in json.dumps(list(shard.cuts()))
