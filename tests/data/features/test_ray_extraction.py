"""Shards made by tasks of a Ray cluster: the same bytes, and machines that do not fit are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.features import ray_extraction as ray_shards
from lmu_asr.data.features.prepare import prepare_features
from lmu_asr.data.importing.validate import validate_and_repair
from lmu_asr.errors import DataError
from tests.data.features.test_prepare import corpus, small_shards  # noqa: F401
from tests.data.speech import manifests, tree_bytes

CONFIG = FeaturesConfig(speed_perturb=[0.9])


def prepare(paths: dict[str, Path], out: Path, on_ray: bool) -> None:
    kept, report = validate_and_repair(manifests(paths), "train", CONFIG, str)
    prepare_features(kept, "train", CONFIG, out, 2 if on_ray else 1, True, report, on_ray)


@pytest.mark.extras
@pytest.mark.slow
def test_the_bytes_of_one_process(tmp_path, small_shards, monkeypatch):  # noqa: F811
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_shards, "AHEAD", 1)
    paths = corpus(tmp_path / "source")
    prepare(paths, tmp_path / "one", on_ray=False)
    prepare(paths, tmp_path / "ray", on_ray=True)
    one, ray = tree_bytes(tmp_path / "one"), tree_bytes(tmp_path / "ray")
    assert len([name for name in one if name.endswith(".lca")]) >= 6
    assert one == ray
    (tmp_path / "ray" / "feats" / "train-00002.lca").write_bytes(b"damaged")
    prepare(paths, tmp_path / "ray", on_ray=True)
    assert tree_bytes(tmp_path / "ray") == one


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mark").write_text("x")
    return ray_shards._Place(str(tmp_path), tmp_path / "mark", "x", ray_shards._code())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directory": "/nowhere"}, r"does not see .*mark .*same paths"),
        ({"mark": Path("/nowhere/mark")}, r"does not see /nowhere/mark .*same paths"),
        ({"content": "y"}, r"sees another .*mark"),
        ({"code": "of yesterday"}, r"another version of lmu_asr; install the same"),
    ],
)
def test_machines_that_do_not_fit(place, changes, message, monkeypatch):
    monkeypatch.chdir(Path.cwd())
    with pytest.raises(DataError, match=message):
        ray_shards._make(None, replace(place, **changes))


@pytest.mark.extras
@pytest.mark.slow
def test_errors_of_tasks_come_out_as_they_are(tmp_path, small_shards, monkeypatch):  # noqa: F811
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_shards, "_code", iter(["of the driver"]).__next__)
    with pytest.raises(DataError, match=r"^machine '.*' has another version of lmu_asr"):
        prepare(corpus(tmp_path / "source"), tmp_path / "ray", on_ray=True)
    assert not (tmp_path / "ray" / ray_shards.MARK).exists()
    assert not (tmp_path / "ray" / "train_cuts.jsonl.gz").exists()
