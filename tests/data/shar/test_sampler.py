"""Shar as a training source: every utterance once, the same batches for any processes, exact resuming."""

from __future__ import annotations

import dataclasses
import gzip
import json
import tempfile
from pathlib import Path

import boto3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import Config, TrainConfig
from lmu_asr.data.shar import sampler as shar_sampler
from lmu_asr.data.shar.sampler import (
    FETCHED,
    FetchedFiles,
    build_shar_loader,
    open_shar,
    plan_epoch,
    plan_window,
)
from lmu_asr.errors import DataError, RemoteError
from tests.data.shards import BINS, write_shar
from tests.s3 import s3_server

STEP = 1 / 32 + 1e-6  # of lilcom


def config(**options) -> Config:
    values = {"max_duration": 4.0, "num_buckets": 3, "num_workers": 0, "shar_window": 20, **options}
    return dataclasses.replace(Config(), train=TrainConfig(**values))


@pytest.fixture
def shards(tmp_path):
    """Sixty utterances in nine shards, their features, and where the index goes."""
    stored = write_shar(tmp_path / "shar")
    return tmp_path / "shar", stored, tmp_path / "train_shar.index"


def opened(shards):
    return open_shar(str(shards[0]), shards[2], BINS)


def same(ours, theirs) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(a.ids == b.ids and a.features.equal(b.features) for a, b in pairs)


@pytest.mark.parametrize("field", ["lilcom", "numpy"])
def test_batches_hold_what_was_written(tmp_path, field):
    stored = write_shar(tmp_path / "shar", field=field)
    source = open_shar(str(tmp_path / "shar"), tmp_path / "index", BINS)
    seen = []
    for batch in build_shar_loader(source, config()):
        for name, length, row in zip(batch.ids, batch.feature_lens, batch.features, strict=True):
            assert length == len(stored[name])
            assert np.abs(row[:length].numpy() - stored[name]).max() <= (
                STEP if field == "lilcom" else 0
            )
            seen.append(name)
        assert len(batch.ids) * max(batch.durations) <= 4.0
    assert sorted(seen) == sorted(stored)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_utterance_once_an_epoch_over_processes(shards, size):
    whole = list(build_shar_loader(opened(shards), config(), epoch=1))
    parts = [
        list(build_shar_loader(opened(shards), config(), None, rank, size, 1))
        for rank in range(size)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert [share.ids for share in shares] == [batch.ids[rank::size] for rank in range(size)]
    seen = [name for part in parts for batch in part for name in batch.ids]
    assert sorted(seen) == sorted(shards[1])


def test_epochs_and_seeds_differ(shards):
    source = opened(shards)

    def order(seed=42, epoch=0):
        loader = build_shar_loader(source, dataclasses.replace(config(), seed=seed), epoch=epoch)
        return [name for batch in loader for name in batch.ids]

    assert order() == order()
    assert len({tuple(order(epoch=0)), tuple(order(epoch=1)), tuple(order(seed=1))}) == 3


def test_going_on_from_any_batch(shards):
    whole = list(build_shar_loader(opened(shards), config(), epoch=2))
    for start in range(len(whole) + 1):
        assert same(
            build_shar_loader(opened(shards), config(), None, 0, 1, 2, start), whole[start:]
        )


def test_loader_processes_change_nothing(shards):
    alone = list(build_shar_loader(opened(shards), config()))
    assert same(build_shar_loader(opened(shards), config(num_workers=2)), alone)
    late = build_shar_loader(opened(shards), config(num_workers=2), start_batch=5)
    assert same(late, alone[5:])


def test_only_the_window_of_a_batch_and_the_next_are_read(shards, monkeypatch):
    source, read = opened(shards), []
    through = shar_sampler.file_crc
    monkeypatch.setattr(
        shar_sampler, "file_crc", lambda path: (read.append(path.name), through(path))[1]
    )
    loader = build_shar_loader(source, config())
    plan = plan_epoch(source.index, 42, 0, 4.0, 3, 20)
    assert len(plan.windows) == 3 and sorted(sum(plan.windows, ())) == list(range(9))
    middle = build_shar_loader(source, config(), start_batch=plan.ends[1])
    next(iter(middle))
    names = [f"features.{shard:06d}.tar" for shard in plan.windows[2]]
    assert read == names
    read.clear()
    list(loader)
    assert read == [f"features.{shard:06d}.tar" for window in plan.windows for shard in window]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.1, 40.0), min_size=1, max_size=300),
    st.floats(1.0, 200.0),
    st.integers(1, 12),
    st.integers(0, 9),
)
def test_plan_of_a_window(durations, limit, buckets, seed):
    values = np.array(durations)
    plan = plan_window(values, limit, buckets, np.random.default_rng(seed))
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(values)))
    for batch in plan:
        assert len(batch) == 1 or len(batch) * values[batch].max() <= limit * (1 + 1e-9)


def test_windows_pad_little():
    durations = np.clip(np.random.default_rng(0).normal(12.0, 4.0, 5000), 1.0, 35.0)
    plan = plan_window(durations, 200.0, 20, np.random.default_rng(1))
    padded = [len(batch) * durations[batch].max() for batch in plan]
    assert durations.sum() / sum(padded) > 0.92
    assert np.mean(padded) > 0.85 * 200.0


def test_index_follows_the_shards(shards):
    first = opened(shards).index
    time = shards[2].stat().st_mtime_ns
    assert opened(shards).index.fingerprint == first.fingerprint
    assert shards[2].stat().st_mtime_ns == time
    moved = shards[0].rename(shards[0].with_name("moved"))
    assert opened((moved, *shards[1:])).index.fingerprint == first.fingerprint
    write_shar(moved, count=30, seed=1)
    for number in (5, 6, 7, 8):
        (moved / f"cuts.{number:06d}.jsonl.gz").unlink()
        (moved / f"features.{number:06d}.tar").unlink()
    again = opened((moved, *shards[1:])).index
    assert len(again) == 30 and again.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["features.000003.tar"], r"shard 000003 of 000000 to 000008 is not whole: no features"),
        (["cuts.000008.jsonl.gz"], r"shard 000008 .* no cuts.000008.jsonl.gz; copy it again"),
        (["cuts.000002.jsonl.gz", "features.000002.tar"], r"shard 000002 .* not whole: no cuts"),
    ],
)
def test_missing_shards(shards, names, message):
    for name in names:
        (shards[0] / name).unlink()
    with pytest.raises(DataError, match=message):
        opened(shards)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=r"no such directory \(train.shar\)"):
        open_shar(str(tmp_path / "gone"), tmp_path / "index", BINS)
    with pytest.raises(
        DataError, match=r"no cuts.<number>.jsonl.gz .*lmu_asr.data.shar.export writes"
    ):
        open_shar(str(tmp_path), tmp_path / "index", BINS)


def test_archive_cut_short(shards):
    path = shards[0] / "features.000004.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=rf"features.000004.tar: cut short after {len(whole) // 2} b"
    ):
        opened(shards)


def test_archive_that_breaks_later(shards):
    source = opened(shards)
    path = shards[0] / "features.000004.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"features.000004.tar: (cut short or damaged|\d utter)"):
        list(build_shar_loader(source, config()))
    member = whole.index(b"utt.030.llc")
    path.write_bytes(whole[: member + 600] + b"\xff" * 64 + whole[member + 664 :])
    with pytest.raises(DataError, match=r"features of 'utt.030' cannot be read .*copy it again"):
        list(build_shar_loader(source, config()))


def change_cuts(path: Path, change) -> None:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join(change(lines)).encode() + b"\n"))


def test_list_and_archive_of_different_counts(shards):
    change_cuts(shards[0] / "cuts.000001.jsonl.gz", lambda lines: lines[:-1])
    with pytest.raises(DataError, match=r"features.000001.tar: 7 utterances, its list has 6"):
        list(build_shar_loader(opened(shards), config()))
    change_cuts(shards[0] / "cuts.000001.jsonl.gz", lambda lines: lines[::-1])
    with pytest.raises(DataError, match=r"000001.tar: 'utt.007' where its list has 'utt.012'"):
        list(build_shar_loader(opened(shards), config()))


def test_lists_that_are_not_whole(shards):
    path = shards[0] / "cuts.000005.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cuts.000005.jsonl.gz: not a whole list of cuts"):
        opened(shards)
    write_shar(shards[0])
    change_cuts(path, lambda lines: [json.dumps({"id": "a", "duration": 1.0})])
    with pytest.raises(
        DataError, match=r"cut 'a' of shard 000005 has no features \(line 1\); export"
    ):
        opened(shards)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (3.5, "a line of shard 000005 has no id"),
        ({"id": "\ud800"}, "has no id"),
        ({"duration": float("nan")}, "has no duration"),
        ({"duration": None}, "has no duration"),
        ({"features": {"num_frames": 1 << 40, "num_features": BINS}}, "no num_frames"),
        ({"features": {"num_frames": 30}}, "no num_features"),
        ({"supervisions": ["x"]}, "supervisions that are none"),
        ({"supervisions": [{"text": 3}]}, "supervisions that are none"),
    ],
)
def test_a_line_that_is_no_cut_is_named(shards, line, fault):
    def change(lines):
        changed = {**json.loads(lines[2]), **line} if isinstance(line, dict) else line
        return [*lines[:2], json.dumps(changed), *lines[3:]]

    change_cuts(shards[0] / "cuts.000005.jsonl.gz", change)
    with pytest.raises(DataError, match=f"{fault}.*line 3"):
        opened(shards)
    assert not shards[2].exists()


def test_a_damaged_header_of_an_array_is_named(tmp_path):
    stored = write_shar(tmp_path / "shar", field="numpy")
    frames = str(len(stored["utt.000"])).encode()
    path = tmp_path / "shar/features.000000.tar"
    path.write_bytes(path.read_bytes().replace(b"(" + frames + b", 8)", b"(" + frames + b", 8i", 1))
    source = open_shar(str(tmp_path / "shar"), tmp_path / "index", BINS)
    with pytest.raises(DataError, match=r"features of 'utt.000' cannot be read"):
        list(build_shar_loader(source, config()))


def test_a_mark_that_is_no_text_is_none(shards):
    marks = shards[0].parent / ".keys/shar"
    marks.mkdir(parents=True)
    (marks / "000000").write_bytes(b"\xeb\xff-0000000g")
    assert len(list(build_shar_loader(opened(shards), config()))) > 3


def test_other_features_and_options_that_do_not_fit(shards):
    with pytest.raises(DataError, match=r"features of 8 bins, features.num_mel_bins is 80"):
        open_shar(str(shards[0]), shards[2], 80)
    with pytest.raises(DataError, match=r"train.sorted_epochs is 2"):
        build_shar_loader(opened(shards), config(sorted_epochs=2))


def upload(folder: Path) -> None:
    for path in folder.iterdir():
        boto3.client("s3").upload_file(str(path), "speech", f"shar/train/{path.name}")


@pytest.mark.parametrize("workers", [0, 2])
def test_from_s3(shards, tmp_path, monkeypatch, workers):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (temporary / f"{FETCHED}left").mkdir()
    (temporary / f"{FETCHED}left" / "features.000000.tar").write_bytes(b"by a killed run")
    wanted = list(build_shar_loader(opened(shards), config()))
    with s3_server(monkeypatch):
        upload(shards[0])
        source = open_shar("s3://speech/shar/train", tmp_path / "index", BINS)
        assert source.index.fingerprint == opened(shards).index.fingerprint
        loader = build_shar_loader(source, config(num_workers=workers))
        most, found = 0, []
        for batch in loader:
            found.append(batch)
            most = max(most, len(list(temporary.rglob("features.*.tar"))))
        assert same(found, wanted)
        if workers == 0:
            assert most <= 6  # of nine: a window and the next
        late = build_shar_loader(source, config(num_workers=workers), start_batch=len(wanted) - 2)
        assert same(late, wanted[-2:])
        del loader, late
        assert list(temporary.glob(f"{FETCHED}*")) == []
        boto3.client("s3").delete_object(Bucket="speech", Key="shar/train/features.000002.tar")
        with pytest.raises(DataError, match=r"s3://speech/shar/train: shard 000002 .*no features"):
            open_shar("s3://speech/shar/train", tmp_path / "index", BINS)
        with pytest.raises(RemoteError, match="there is no such"):
            list(build_shar_loader(source, config()))


def test_fetched_files_of_a_living_process_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = FetchedFiles()
    second = FetchedFiles()
    assert first.folder.is_dir() and second.folder.is_dir()
    place = first.folder
    del first
    assert not place.exists() and second.folder.is_dir()
