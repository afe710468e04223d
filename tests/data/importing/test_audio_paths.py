"""Where relative names of lists are looked up."""

from pathlib import Path

import pytest

from lmu_asr.data.importing.audio_paths import locate_audio, resolve_audio
from lmu_asr.errors import DataError


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


@pytest.mark.parametrize("name", ["https://host/a.wav", "file:///a.wav", "gs://b/a.wav"])
def test_other_addresses_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"list:3: '{name}': only s3:// addresses are fetched"):
        locate_audio(name, tmp_path, None, "list:3")
    assert locate_audio("a:b/c.wav", tmp_path, None, "list:3") == (tmp_path / "a:b/c.wav", "")
