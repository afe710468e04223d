"""What stage 1 watches: the source through links, and the audio that lies elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from lmu_asr.config import Config, CorpusConfig
from lmu_asr.stages.common import Context
from lmu_asr.stages.features import _write_sources, inputs
from tests.data.speech import manifests, write_audio


def context(tmp_path: Path, source: Path) -> Context:
    config = Config(corpus=CorpusConfig(name="own", id="corp", source=str(source)))
    return Context(config, tmp_path / "data", tmp_path / "exp", "", 1)


def test_audio_beside_the_source_is_watched(tmp_path: Path) -> None:
    """Whatever its directory is called: ``corp-audio`` begins like ``corp``."""
    names = ["corp/in.wav", "corp-audio/a\nb%41.wav", "corp-audio/caf\udce9.wav", "other/c.wav"]
    paths = {str(i): tmp_path / name for i, name in enumerate(names)}
    for path in paths.values():
        path.parent.mkdir(exist_ok=True)
        write_audio(tmp_path / "made.wav", 0.1).rename(path)
    run = context(tmp_path, tmp_path / "corp")
    _write_sources(run, [manifests(paths)])
    assert sorted(inputs(run)) == sorted(paths.values())
    listed = tmp_path / "list.csv"
    listed.touch()
    run = context(tmp_path, listed)
    _write_sources(run, [manifests({"0": write_audio(tmp_path / "list.csv.wav", 0.1)})])
    assert list(inputs(run)) == [listed, tmp_path / "list.csv.wav"]


def test_files_behind_links_are_watched(tmp_path: Path) -> None:
    source, disk = tmp_path / "corp", tmp_path / "disk"
    disk.mkdir()
    (disk / "a.trans.txt").touch()
    source.mkdir()
    (source / "s1").symlink_to(disk)
    (disk / "circle").symlink_to(source)
    assert [os.path.relpath(p, source) for p in inputs(context(tmp_path, source))] == [
        "s1/a.trans.txt"
    ]
