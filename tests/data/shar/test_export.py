"""Shar holds the stored features in their order, in a directory and on S3, and goes on where it stood."""

from __future__ import annotations

import numpy as np
import pytest
from lhotse import CutSet

from lmu_asr.data.features.prepare import read_cuts
from lmu_asr.data.shar import export as shar
from lmu_asr.data.shar.export import export_shar
from lmu_asr.errors import DataError
from tests.data.features.test_prepare import corpus, extract, small_shards  # noqa: F401
from tests.s3 import s3_server

STEP = 1 / 32 + 1e-6  # of lilcom


def check(found: CutSet, wanted: CutSet) -> None:
    pairs = list(zip(list(found), list(wanted), strict=True))
    assert len(pairs) == 10
    for ours, theirs in pairs:
        assert ours.id == theirs.id and not ours.has_recording
        assert ours.supervisions[0].text == theirs.supervisions[0].text
        assert np.abs(ours.load_features() - theirs.load_features()).max() <= STEP


@pytest.fixture
def stored(tmp_path, small_shards):  # noqa: F811
    extract(corpus(tmp_path / "source"), tmp_path / "fbank")
    return tmp_path / "fbank", read_cuts(tmp_path / "fbank" / "train_cuts.jsonl.gz")


def test_in_a_directory(stored, tmp_path, monkeypatch):
    features, cuts = stored
    out, write, count = tmp_path / "shar", shar._write, []

    def killed(*arguments):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(0)
        write(*arguments)

    monkeypatch.setattr(shar, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        export_shar(features, "train", str(out))
    monkeypatch.setattr(shar, "_write", write)
    shards = len(list((features / "feats").glob("*.lca")))
    assert shards > 3 and export_shar(features, "train", str(out)) == shards - 2
    assert export_shar(features, "train", str(out)) == 0
    check(CutSet.from_shar(in_dir=out / "train"), cuts)
    arguments = ["--features", str(features), "--split", "dev", "--out", str(out)]
    assert shar.main(arguments) == 1
    with pytest.raises(DataError, match="run stage 1"):
        export_shar(features, "dev", str(out))


def test_on_s3(stored, monkeypatch):
    features, cuts = stored
    with s3_server(monkeypatch):
        written = export_shar(features, "train", "s3://speech/shar")
        assert export_shar(features, "train", "s3://speech/shar") == 0
        names = [f"{i:06d}" for i in range(written)]
        fields = {
            "cuts": [f"s3://speech/shar/train/cuts.{n}.jsonl.gz" for n in names],
            "features": [f"s3://speech/shar/train/features.{n}.tar" for n in names],
        }
        check(CutSet.from_shar(fields=fields), cuts)
