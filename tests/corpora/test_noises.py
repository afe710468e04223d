"""Noise sets: fetched through a bad line, verified, and what uses them is said."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from lmu_asr.config_files import load_config
from lmu_asr.corpora import fetch, noises
from tests.corpora import fixtures
from tests.corpora.server import serving


@pytest.mark.parametrize("name", sorted(noises.SETS))
def test_a_set(name, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.0)
    option = noises.SETS[name].use.removeprefix("--set ").format(tmp_path)
    load_config(None, [option])  # the option that is said exists
    folder = option.partition("=")[2].removeprefix(f"{tmp_path}/")
    with serving() as server:
        archive = noises.SETS[name].archive
        content = fixtures.packed({f"{folder}/a.wav": fixtures.audio("wav")})
        server.files[f"/{archive.path}"] = content
        server.faults[f"/{archive.path}"] = [("drop", 1000)]
        digest = "md5:" + hashlib.md5(content).hexdigest()
        known = replace(noises.SETS[name], archive=replace(archive, digest=digest))
        arguments = [name, "--target", str(tmp_path), "--mirror", server.base]
        assert noises.main(arguments) == 1  # not the publisher's bytes
        monkeypatch.setitem(noises.SETS, name, known)
        assert noises.main(arguments) == 0
    assert (tmp_path / folder / "a.wav").is_file()
    assert option in caplog.text
