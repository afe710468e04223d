"""Where relative names of lists are looked up."""

from pathlib import Path

import pytest

from lmu_asr.data.importing.audio_paths import resolve_audio


def test_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the list, in its ``clips``, then where the user calls from; never in the project."""
    base, caller, project = (tmp_path / name for name in ("list", "caller", "project"))
    for folder in (base, caller, project):
        folder.mkdir()
    monkeypatch.chdir(project)
    (project / "a.wav").touch()
    assert resolve_audio("a.wav", base) == project / "a.wav"  # no run.sh: it is the caller's
    monkeypatch.setenv("LMU_ASR_CALLER_DIR", str(caller))
    assert resolve_audio("a.wav", base) == base / "a.wav"
    for place in (caller, base / "clips", base):
        place.mkdir(exist_ok=True)
        (place / "a.wav").touch()
        assert resolve_audio("a.wav", base) == place / "a.wav"
