"""The same twenty utterances through every door, and what each door refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import soundfile
from lhotse import CutSet, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.utils import fastcopy

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.audio.reader import recording_from_file
from lmu_asr.data.features.prepare import make_cuts
from lmu_asr.data.importing.importers import import_data, split_paths
from lmu_asr.data.importing.validate import validate_and_repair
from lmu_asr.errors import DataError
from tests.data.encoded import encode
from tests.data.speech import RATE, noise, write_audio

TEXTS = {f"utt{i:02d}": f"text number {i}" for i in range(20)}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Twenty files of increasing length; the last is stereo."""
    folder = tmp_path_factory.mktemp("audio")
    for i, name in enumerate(TEXTS):
        write_audio(folder / f"{name}.wav", 0.3 + i / 100, i, channels=1 + (i == 19))
    return folder


def rows(audio: Path) -> list[dict[str, str]]:
    return [
        {"key": k, "source": str(audio / f"{k}.wav"), "target": t, "speaker": k[-1]}
        for k, t in TEXTS.items()
    ]


def kaldi(audio: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "wav.scp").write_text("".join(f"{k} {audio / k}.wav\n" for k in TEXTS))
    (folder / "text").write_text("".join(f"{k} {t}\n" for k, t in TEXTS.items()))
    (folder / "utt2spk").write_text("".join(f"{k} {k[-1]}\n" for k in TEXTS))
    return folder


def json_lines(audio: Path, folder: Path) -> Path:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(audio)))
    return path


def nemo(audio: Path, folder: Path) -> Path:
    path = folder / "nemo.json"
    names = {"key": "id", "source": "audio_filepath", "target": "text", "speaker": "speaker"}
    lines = [
        {
            **{names[k]: v for k, v in row.items()},
            "duration": soundfile.info(row["source"]).duration,
        }
        for row in rows(audio)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def table(audio: Path, folder: Path, separator: str) -> Path:
    path = folder / ("list.csv" if separator == "," else "list.tsv")
    lines = [separator.join(row.values()) for row in rows(audio)]
    header = separator.join(["key", "source", "target", "speaker"])
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8-sig")
    return path


def layout(audio: Path, folder: Path) -> Path:
    root = folder / "layout"
    for i, (key, text) in enumerate(TEXTS.items()):
        chapter = root / key[-1] / str(i)
        chapter.mkdir(parents=True)
        (chapter / f"{key}.wav").symlink_to(audio / f"{key}.wav")
        (chapter / f"{key}.trans.txt").write_text(f"{key} {text}\n")
    return root


def lhotse_pair(audio: Path, folder: Path) -> Path:
    given = import_data(kaldi(audio, folder / "kaldi"))
    given.recordings.to_file(folder / "my_recordings_all.jsonl.gz")
    given.supervisions.to_file(folder / "my_supervisions_all.jsonl.gz")
    return folder / "my_supervisions_all.jsonl.gz"


def lhotse_cuts(audio: Path, folder: Path) -> Path:
    cuts = make_cuts(import_data(kaldi(audio, folder / "kaldi")))
    path = folder / "all_cuts.jsonl.gz"
    CutSet.from_cuts(fastcopy(cut, id=f"{cut.id}-cut") for cut in cuts).to_file(path)
    return path


DOORS = {
    "kaldi": lambda a, f: kaldi(a, f / "data"),
    "jsonl": json_lines,
    "nemo": nemo,
    "csv": lambda a, f: table(a, f, ","),
    "tsv": lambda a, f: table(a, f, "\t"),
    "librispeech": layout,
    "supervisions": lhotse_pair,
    "cuts": lhotse_cuts,
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_the_same(audio, tmp_path, door):
    given = import_data(DOORS[door](audio, tmp_path))
    found = {s.id: s for s in given.supervisions}
    assert sorted(found) == sorted(TEXTS)
    assert given.problems == {}
    recordings = {r.id: r for r in given.recordings}
    for name, text in TEXTS.items():
        segment = found[name]
        seconds = soundfile.info(audio / f"{name}.wav").duration
        assert (segment.text, segment.speaker, segment.start) == (text, name[-1], 0.0)
        assert segment.duration == pytest.approx(seconds, abs=1e-6)
        source = Path(recordings[segment.recording_id].sources[0].source)
        assert source.resolve() == (audio / f"{name}.wav").resolve()
    if door not in ("cuts", "librispeech"):
        assert found["utt19"].channel == [0, 1] and found["utt00"].channel == 0


def test_lhotse_takes_the_decoded_length_of_an_mp3(tmp_path):
    mp3 = encode(tmp_path / "a.mp3", [noise(0.7).T], RATE, "libmp3lame", write_xing="0")
    estimated = soundfile.info(mp3).frames  # what lhotse has written
    recording = recording_from_file(mp3, "a")
    counted = recording.num_samples
    assert estimated != counted
    recording = fastcopy(recording, num_samples=estimated, duration=estimated / RATE)
    RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl")
    said = SupervisionSegment("u", "a", 0.0, estimated / RATE, text="hello")
    SupervisionSet.from_segments([said]).to_file(tmp_path / "supervisions.jsonl")
    given = import_data(tmp_path / "supervisions.jsonl")
    assert [r.num_samples for r in given.recordings] == [counted]
    kept, _ = validate_and_repair(given, "train", FeaturesConfig(), str)
    assert [s.duration for s in kept.supervisions] == [counted / RATE]
    mp3.write_bytes(b"no audio" * 100)
    assert "not readable" in import_data(tmp_path / "supervisions.jsonl").problems["a"]


def test_kaldi_segments(audio, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"rec {audio}/utt05.wav\n")
    (folder / "segments").write_text("b rec 0.10 0.25\na rec 0.0 0.1\n")
    (folder / "text").write_text("a first part\nb second  part\n")
    given = import_data(folder)
    assert len({s.recording_id for s in given.supervisions}) == 1
    found = {s.id: (s.start, s.end, s.text) for s in given.supervisions}
    assert found == {"a": (0.0, 0.1, "first part"), "b": (0.1, 0.25, "second  part")}


def test_segments_in_a_list(audio, tmp_path):
    path = tmp_path / "list.jsonl"
    part = {"source": f"{audio}/utt19.wav", "target": "x"}
    lines = [
        {**part, "key": "a", "start": 0.1, "end": 0.2, "channel": 1},
        {**part, "key": "b", "offset": 0.2, "duration": 0.1},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    given = import_data(path)
    assert len(list(given.recordings)) == 1
    found = [(s.id, s.start, round(s.end, 6), s.channel) for s in given.supervisions]
    assert found == [("a", 0.1, 0.2, 1), ("b", 0.2, 0.3, [0, 1])]


def test_relative_paths_are_beside_the_list(audio, tmp_path, monkeypatch):
    write_audio(tmp_path / "lists" / "clips" / "a.wav")
    (tmp_path / "lists" / "wav.scp").write_text("a clips/a.wav\nb lists/clips/a.wav\nc gone.wav\n")
    (tmp_path / "lists" / "text").write_text("a x\nb x\nc x\n")
    monkeypatch.chdir(tmp_path)
    given = import_data(tmp_path / "lists")
    wanted = str((tmp_path / "lists" / "clips" / "a.wav").resolve())
    assert [r.sources[0].source for r in given.recordings] == [wanted]
    assert [s.duration for s in given.supervisions] == [0.5, 0.5, 0.0]
    assert list(given.problems) == ["c"] and "no such file" in given.problems["c"]


def test_text_without_audio_and_audio_without_text(audio, tmp_path):
    folder = kaldi(audio, tmp_path / "data")
    lines = (folder / "text").read_text().splitlines()
    (folder / "text").write_text("\n".join([*lines[1:], "utt99 no audio"]) + "\n")
    given = import_data(folder)
    found = {s.id: s.text for s in given.supervisions}
    assert found["utt00"] == "" and found["utt99"] == "no audio"
    assert "utt99" not in [r.id for r in given.recordings]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("wav.scp", "utt00 sox a.flac -t wav - |", r"wav.scp:1: 'utt00' is a command"),
        ("text", "utt00 x\nutt01 y\nutt00 z", r"text:3: 'utt00' is already on line 1"),
        ("segments", "utt00 rec 0.5", r"segments:1: want '<utterance> <recording>"),
        ("text", b"utt00 caf\xe9", r"text:1: .*not UTF-8.*iconv"),
    ],
)
def test_broken_kaldi_lines(audio, tmp_path, name, line, message):
    folder = kaldi(audio, tmp_path / "data")
    (folder / name).write_bytes(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(DataError, match=message):
        import_data(folder)


def test_missing_kaldi_text(audio, tmp_path):
    (kaldi(audio, tmp_path / "data") / "text").unlink()
    with pytest.raises(DataError, match=r"needs wav.scp and text"):
        import_data(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"key": "a"}', "a.jsonl:1: no column 'source'.*found key"),
        ("a.jsonl", '{"key": "a"', "a.jsonl:1: not JSON"),
        ("a.jsonl", '\n["a"]', "a.jsonl:2: want an object, got a list"),
        (
            "a.jsonl",
            '{"source": "a.wav", "text": "", "start": "soon"}',
            "a.jsonl:1: start is 'soon'",
        ),
        ("a.csv", "name,words\nx,y\n", "a.csv:1: no column 'source'"),
        ("a.txt", "x", "unknown format"),
        ("x_supervisions.jsonl", "{}", "recordings are not there: x_recordings.jsonl"),
    ],
)
def test_broken_lists(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        import_data(tmp_path / name)


def test_manifest_cut_short(audio, tmp_path):
    path = lhotse_pair(audio, tmp_path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match="cut short"):
        import_data(path)
    lines = tmp_path / "list.jsonl.gz"
    lines.write_bytes(gzip.compress(b'{"source": "a.wav", "key": "a"}\n' * 999)[:50])
    with pytest.raises(DataError, match="cut short"):
        import_data(lines)


def test_nothing_known_in_the_directory(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match=r"want a Kaldi data directory.*found notes.md"):
        import_data(tmp_path)
    with pytest.raises(DataError, match="no such file or directory"):
        import_data(tmp_path / "gone")


def test_split_names(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("dev.csv", "cuts_test.jsonl.gz", "my_supervisions_other.jsonl", "test.md"):
        (tmp_path / name).touch()
    found = split_paths(tmp_path, ["train", "dev", "test", "other", "none"])
    assert {k: p[0].name for k, p in found.items()} == {
        "train": "train",
        "dev": "dev.csv",
        "test": "cuts_test.jsonl.gz",
        "other": "my_supervisions_other.jsonl",
    }
    with pytest.raises(DataError, match=r"corpus.source"):
        split_paths(tmp_path / "gone", ["train"])
