"""Manifests of Lhotse that are none, or of kinds that are not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmu_asr.data.importing.importers import import_data
from lmu_asr.errors import DataError

RECORDING = {
    "id": "r",
    "sources": [{"type": "file", "channels": [0], "source": "r.wav"}],
    "sampling_rate": 16000,
    "num_samples": 16000,
    "duration": 1.0,
}
SEGMENT = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, "text": "x"}
CUT = {
    "id": "c",
    "start": 0.0,
    "duration": 1.0,
    "channel": 0,
    "supervisions": [SEGMENT],
    "recording": RECORDING,
    "type": "MonoCut",
}


def write(folder: Path, cut: dict[str, Any]) -> Path:
    path = folder / "my_cuts.jsonl"
    path.write_text(json.dumps(CUT) + "\n" + json.dumps(cut) + "\n")
    return path


def test_names_are_escaped(tmp_path: Path) -> None:
    segment = {**SEGMENT, "id": "a b", "speaker": "A\nB"}
    found = import_data(write(tmp_path, {**CUT, "supervisions": [segment]}))
    assert [(s.id, s.speaker) for s in found.supervisions] == [("s", None), ("a%20b", "A%0AB")]
    assert list(found.problems) == ["r"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": float("nan")}, "not JSON: NaN"),
        ({"type": "MixedCut", "tracks": []}, "cut 'c' is a MixedCut; want MonoCut"),
        ({"type": "MultiCut", "channel": [0, 1]}, "cut 'c' is a MultiCut; want MonoCut"),
        ({"recording": None}, "cut 'c' has no recording"),
        ({"duration": "1"}, "not a MonoCut of Lhotse: .*duration is '1'"),
        ({"id": 7}, "not a MonoCut of Lhotse: .*id is 7"),
        ({"supervisions": 1}, "not a MonoCut of Lhotse"),
        ({"supervisions": [{**SEGMENT, "text": ["x"]}]}, r"text is \['x'\]"),
        ({"supervisions": [{**SEGMENT, "text": "\ud800"}]}, "surrogates not allowed"),
        ({"supervisions": [{**SEGMENT, "channel": "a"}]}, "channel is 'a'"),
        ({"recording": {**RECORDING, "num_samples": "many"}}, "num_samples many"),
        (
            {
                "recording": {
                    **RECORDING,
                    "sources": [{"type": "file", "channels": [0], "source": 1}],
                }
            },
            "path",
        ),
        ({"other": 1}, "not a MonoCut of Lhotse"),
    ],
)
def test_broken_cuts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, {**CUT, **changes})
    with pytest.raises(DataError, match=message):
        import_data(path)


def test_audio_with_a_name_that_is_too_long_is_listed(tmp_path: Path) -> None:
    source = {"type": "file", "channels": [0], "source": "x" * 5000}
    found = import_data(
        write(tmp_path, {**CUT, "recording": {**RECORDING, "id": "l", "sources": [source]}})
    )
    assert sorted(found.problems) == ["l", "r"]


@pytest.mark.parametrize("text", ["", "[", '{"a": 1}', "[1]", "[" * 100_000, '[{"id": 1}]'])
def test_documents_that_are_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "my_recordings.json").write_text(text)
    (tmp_path / "my_supervisions.json").write_text("[]")
    with pytest.raises(DataError, match=r"my_recordings\.json: "):
        import_data(tmp_path / "my_supervisions.json")
