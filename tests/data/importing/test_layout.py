"""LibriSpeech layout as it really is: links, capital suffixes, odd characters in transcripts."""

from __future__ import annotations

from pathlib import Path

from lmu_asr.data.importing.importers import import_data
from tests.data.speech import write_audio


def speaker(folder: Path, name: str, line: str = "{} yes\n", suffix: str = ".wav") -> None:
    ids = [f"{name}-{i}" for i in range(2)]
    for utterance in ids:
        write_audio(folder / name / "c" / (utterance + suffix), 0.2)
    text = "".join(line.format(utterance) for utterance in ids)
    (folder / name / "c" / f"{name}.trans.txt").write_text(text, encoding="utf-8", newline="")


def texts(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    found = import_data(folder)
    assert found.problems == {}
    return {s.id: (s.speaker, s.text) for s in found.supervisions}


def test_speakers_that_are_links(tmp_path):
    split = tmp_path / "corpus"
    speaker(split, "s0")
    speaker(tmp_path / "disk2", "s1")
    (split / "s1").symlink_to(tmp_path / "disk2" / "s1")
    (split / "again").symlink_to(split)
    assert {u: s for u, (s, _) in texts(split).items()} == {
        "s0-0": "s0",
        "s0-1": "s0",
        "s1-0": "s1",
        "s1-1": "s1",
    }


def test_lines_and_suffixes(tmp_path):
    speaker(tmp_path, "a", "{}\tone\u2028two\x85three \r\n", ".WAV")
    path = tmp_path / "a" / "c" / "a.trans.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert texts(tmp_path) == {f"a-{i}": ("a", "one\u2028two\x85three") for i in range(2)}


def test_transcripts_in_the_directory_itself_name_no_speaker(tmp_path):
    write_audio(tmp_path / "a.wav", 0.2)
    (tmp_path / "all.trans.txt").write_text("a yes\n")
    assert texts(tmp_path) == {"a": (None, "yes")}
