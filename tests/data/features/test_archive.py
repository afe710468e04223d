"""Feature archives with damage that leaves size and time as they were: no bit of it is read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.batches.loaders import build_eval_loader, load_features
from lmu_asr.data.batches.sampler import read_utterances
from lmu_asr.data.features import archive
from lmu_asr.data.features import part as shard
from lmu_asr.data.features.prepare import read_cuts
from lmu_asr.data.shar.export import export_shar
from lmu_asr.data.shar.sampler import build_shar_loader, open_shar
from lmu_asr.errors import DataError
from tests.data.features.test_prepare import corpus, extract, small_shards  # noqa: F401
from tests.data.shar.test_sampler import config
from tests.data.speech import tree_bytes
from tests.s3 import s3_server

FLIPS = 200


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Change one bit; the file's size and times stay."""
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.fixture
def prepared(tmp_path, small_shards):  # noqa: F811
    """A split in several archives; its directory and utterances."""
    extract(corpus(tmp_path / "source"), tmp_path / "fbank")
    return tmp_path / "fbank", read_utterances(tmp_path / "fbank" / "train_cuts.jsonl.gz")


def test_what_is_read_is_what_lhotse_reads(prepared):
    folder, utterances = prepared
    wanted = {cut.id: cut.load_features() for cut in read_cuts(folder / "train_cuts.jsonl.gz")}
    for utterance in utterances:
        np.testing.assert_array_equal(load_features(utterance), wanted[utterance.id])


def test_every_flipped_bit_is_an_error_that_names_file_and_utterance(prepared):
    _, utterances = prepared
    first = Path(utterances[0].storage[1])
    mine = [u for u in utterances if u.storage[1] == str(first)]
    whole, rng = first.read_bytes(), np.random.default_rng(0)
    for place, bit in zip(
        rng.integers(0, len(whole), FLIPS), rng.integers(0, 8, FLIPS), strict=True
    ):
        flip(first, place, bit)
        errors = []
        for utterance in mine:
            try:
                load_features(utterance)
            except DataError as error:
                errors.append((utterance.id, str(error)))
        assert len(errors) == 1, (place, bit)  # the others are read as they are
        name, message = errors[0]
        assert (
            message.startswith(f"{first}: features of '{name}': damaged") and "--force" in message
        )
        first.write_bytes(whole)
    assert load_features(mine[0]).shape == (mine[0].num_frames, 80)


def test_stage_1_makes_the_damaged_shard_again_and_no_other(prepared, tmp_path, monkeypatch):
    folder, _ = prepared
    wanted = tree_bytes(folder)
    flip(next((folder / "feats").glob("train-00001.lca")), 77)
    flip(next((folder / "feats").glob("train-00002.crc")), 30)
    made = []
    work = shard._extract
    monkeypatch.setattr(
        shard, "_extract", lambda task, *rest: (made.append(task.name), work(task, *rest))[1]
    )
    extract(corpus(tmp_path / "source"), folder)
    assert made == ["train-00001"] and tree_bytes(folder) == wanted


def test_damaged_checksums_and_those_of_another_archive(prepared):
    _, utterances = prepared
    sums = archive.sums_path(Path(utterances[0].storage[1]))
    whole = sums.read_bytes()
    for place in range(len(whole)):
        flip(sums, place)
        with pytest.raises(DataError, match=r"'u0': the checksums themselves are damaged"):
            load_features(utterances[0])
        sums.write_bytes(whole)
    sums.write_bytes(whole[:12])
    with pytest.raises(DataError, match="damaged"):
        load_features(utterances[0])
    archive.write_sums(Path(utterances[0].storage[1]), ["5,7"])
    with pytest.raises(DataError, match="no checksum for byte 0"):
        load_features(utterances[0])


def test_features_of_an_earlier_version_are_read_and_it_is_said_once(prepared, tmp_path, caplog):
    folder, utterances = prepared
    wanted = load_features(utterances[0])
    for path in (folder / "feats").glob("*.crc"):
        path.unlink()
    archive.say_unchecked.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            batches = list(build_eval_loader(folder / "train_cuts.jsonl.gz", 9.0))
    assert caplog.text.count("without checksums") == 1
    assert sum(len(batch.ids) for batch in batches) == len(utterances)
    np.testing.assert_array_equal(load_features(utterances[0]), wanted)
    extract(corpus(tmp_path / "source"), folder)  # what is whole gets its checksums
    assert len(list((folder / "feats").glob("*.crc"))) == len(
        list((folder / "feats").glob("*.lca"))
    )


def test_header_of_a_shard_is_whole_or_none(prepared):
    folder, _ = prepared
    path = folder / "feats" / "train-00000.jsonl.gz"
    assert shard.read_shard(path) is not None
    flip(path, path.stat().st_size - 30)  # in the cuts, long after the first line
    assert shard.read_shard(path) is None


def test_damage_is_not_exported(prepared, tmp_path):
    folder, _ = prepared
    flip(folder / "feats" / "train-00000.lca", 100)
    with pytest.raises(
        DataError, match=r"train-00000.lca: missing or damaged; stage 1 with --force"
    ):
        export_shar(folder, "train", str(tmp_path / "shar"))


def read_shar(address: str, index: Path) -> int:
    source = open_shar(address, index, FeaturesConfig().num_mel_bins)
    return sum(len(batch.ids) for batch in build_shar_loader(source, config()))


def test_flipped_bit_in_shar(prepared, tmp_path, caplog):
    folder, utterances = prepared
    export_shar(folder, "train", str(tmp_path / "shar"))
    address, index = str(tmp_path / "shar" / "train"), tmp_path / "shar.index"
    assert read_shar(address, index) == len(utterances) and "checksums" not in caplog.text
    path = tmp_path / "shar" / "train" / "features.000001.tar"
    for place in np.random.default_rng(0).integers(0, path.stat().st_size, 20):
        flip(path, place)
        with pytest.raises(DataError, match=r"features.000001.tar: .*copy it again, or export"):
            read_shar(address, index)
        flip(path, place)
    flip(path, 700)
    assert export_shar(folder, "train", str(tmp_path / "shar")) == 1  # it stands no longer
    assert read_shar(address, index) == len(utterances)
    for mark in (tmp_path / "shar" / ".keys" / "train").iterdir():
        mark.write_text(mark.read_text().partition("-")[0])  # of an earlier version
    caplog.set_level(logging.WARNING)
    assert read_shar(address, index) == len(utterances)
    assert caplog.text.count("archives without checksums") == 1


def test_flipped_bit_in_shar_on_s3(prepared, tmp_path, monkeypatch):
    folder, utterances = prepared
    with s3_server(monkeypatch):
        export_shar(folder, "train", "s3://speech/shar")
        assert read_shar("s3://speech/shar/train", tmp_path / "index") == len(utterances)
        import boto3

        bucket = boto3.resource("s3").Bucket("speech")
        item = bucket.Object("shar/train/features.000000.tar")
        data = bytearray(item.get()["Body"].read())
        data[600] ^= 4
        item.put(Body=bytes(data))
        with pytest.raises(DataError, match=r"s3://speech/shar/train/features.000000.tar: damaged"):
            read_shar("s3://speech/shar/train", tmp_path / "index")
