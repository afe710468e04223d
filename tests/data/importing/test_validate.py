"""Every way in which a manifest can be bad, and what is done about it."""

from __future__ import annotations

import dataclasses

import pytest
from lhotse import RecordingSet, SupervisionSet
from lhotse.utils import fastcopy

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.importing.validate import ValidationReport, validate_and_repair
from lmu_asr.data.manifests import Manifests
from lmu_asr.errors import DataError
from tests.data.speech import manifests, write_audio

CONFIG = FeaturesConfig(min_duration=0.1, max_duration=2.0)


@pytest.fixture
def whole(tmp_path):
    """Six utterances of half a second."""
    return manifests({f"u{i}": write_audio(tmp_path / f"u{i}.wav", 0.5, i) for i in range(6)})


def change(whole: Manifests, index: int, **changes) -> Manifests:
    """The manifests with one supervision changed."""
    segments = list(whole.supervisions)
    segments[index] = fastcopy(segments[index], **changes)
    return dataclasses.replace(whole, supervisions=SupervisionSet.from_segments(segments))


def validate(given: Manifests) -> tuple[Manifests, ValidationReport]:
    return validate_and_repair(given, "train", CONFIG, str.lower)


def test_nothing_wrong(whole):
    kept, report = validate(change(whole, 0, text="One TWO"))
    assert [s.id for s in kept.supervisions] == [f"u{i}" for i in range(6)]
    assert kept.supervisions[0].text == "one two"
    assert report.dropped == {} and report.repaired == {}
    assert report.summary() == "6 of 6 utterances kept"
    assert report.text is not None
    assert report.text.summary().endswith("for example u0: 'One TWO' -> 'one two'")
    assert report.to_json()["text"]["changed"] == 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"text": ""}, "empty text"),
        ({"text": None}, "empty text"),
        ({"text": "  "}, "empty text"),
        ({"start": 0.3, "duration": 0.4}, "segment past the end"),
        ({"start": 0.5, "duration": 0.05}, "segment past the end"),
        ({"start": -0.1}, "segment without length"),
        ({"duration": 0.0}, "segment without length"),
        ({"duration": float("nan")}, "segment without length"),
        ({"duration": 0.05}, "too short"),
        ({"channel": 1}, "no such channel"),
        ({"recording_id": "other"}, "missing audio"),
    ],
)
def test_dropped_and_listed(whole, changes, kind):
    kept, report = validate(change(whole, 2, **changes))
    assert [s.id for s in kept.supervisions] == ["u0", "u1", "u3", "u4", "u5"]
    assert {i: k for i, (k, _) in report.dropped.items()} == {"u2": kind}
    assert "u2" not in [r.id for r in kept.recordings]
    assert f"1 dropped: {kind} (u2)" in report.summary()
    assert report.to_json()["counts"] == {kind: 1}


def test_too_long(tmp_path):
    paths = {f"u{i}": write_audio(tmp_path / f"u{i}.wav", 0.5 if i else 2.5, i) for i in range(3)}
    _, report = validate(manifests(paths))
    assert report.dropped["u0"] == ("too long", "2.500 s, features.max_duration is 2.0 s")


def test_problems_of_the_reader_are_listed(whole):
    given = dataclasses.replace(
        whole,
        recordings=RecordingSet.from_recordings(list(whole.recordings)[1:]),
        problems={"u0": "a.wav: no such file", "u1": "b.wav: cut short: 10 bytes"},
    )
    _, report = validate(given)
    assert report.dropped["u0"] == ("missing audio", "a.wav: no such file")
    assert report.dropped["u1"] == ("cut short", "b.wav: cut short: 10 bytes")


def test_small_overrun_is_shortened(whole):
    kept, report = validate(change(whole, 1, duration=0.55))
    assert kept.supervisions[1].end == 0.5
    assert report.repaired == {"segment shortened to the end of its audio": ["u1"]}


def test_rate_and_channels_are_said(tmp_path):
    paths = {
        "u0": write_audio(tmp_path / "u0.wav", rate=8000),
        "u1": write_audio(tmp_path / "u1.wav", channels=2),
    }
    _, report = validate(manifests(paths))
    assert report.repaired == {
        "resampled from 8000 to 16000 Hz": ["u0"],
        "2 channels averaged to one": ["u1"],
    }


def test_duplicate_ids_stop(whole):
    with pytest.raises(DataError, match=r"split 'train': utterance ids .*u1"):
        validate(change(whole, 0, id="u1"))
    twice = RecordingSet.from_recordings([*whole.recordings, next(iter(whole.recordings))])
    with pytest.raises(DataError, match=r"recording ids .*1 occur more than once \(u0\)"):
        validate(dataclasses.replace(whole, recordings=twice))


def test_empty_split_and_more_than_half_lost_stop(whole):
    nothing = Manifests(RecordingSet.from_recordings([]), SupervisionSet.from_segments([]))
    with pytest.raises(DataError, match=r"split 'train' is empty.*corpus\.dev"):
        validate(nothing)
    given = whole
    for index in range(3):
        given = change(given, index, text="")
    validate(given)
    with pytest.raises(DataError, match=r"4 of 6 utterances .*more than 50%.*u0: no text left"):
        validate(change(given, 3, text=""))
