"""LibriSpeech layout in every format, and English text."""

from __future__ import annotations

import pytest

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora import get_corpus
from lmu_asr.corpora.text import normalize_english
from lmu_asr.errors import DataError
from tests.data.speech import write_audio

CONFIG = CorpusConfig(name="librispeech", train="train-5", dev="dev-5", test=["test-5"])
SUFFIXES = ("flac", "wav", "mp3", "opus")


@pytest.fixture
def source(tmp_path):
    """Three splits of two speakers with one chapter each, in four formats."""
    for split in ("train-5", "dev-5", "test-5"):
        for speaker in ("19", "26"):
            chapter = tmp_path / split / speaker / "198"
            lines = []
            for i, suffix in enumerate(SUFFIXES):
                name = f"{speaker}-198-{i:04d}"
                write_audio(chapter / f"{name}.{suffix}", rate=48000 if suffix == "opus" else 16000)
                lines.append(f"{name} IT'S NUMBER {i}\n")
            (chapter / f"{speaker}-198.trans.txt").write_text("".join(lines))
    return tmp_path


def test_splits(source):
    splits = get_corpus("librispeech").manifests(CONFIG, source)
    assert list(splits) == ["train-5", "dev-5", "test-5"]
    train = splits["train-5"]
    names = [f"{speaker}-198-{i:04d}" for speaker in ("19", "26") for i in range(4)]
    assert [s.id for s in train.supervisions] == names
    assert [r.id for r in train.recordings] == names
    assert {s.speaker for s in train.supervisions} == {"19", "26"}
    assert next(iter(train.supervisions)).text == "IT'S NUMBER 0"
    durations = [r.duration for r in train.recordings]
    assert durations == pytest.approx([0.5] * 8, abs=0.06)


def test_missing_and_cut_audio_are_problems(source):
    chapter = source / "train-5" / "19" / "198"
    (chapter / "19-198-0000.flac").unlink()
    wav = chapter / "19-198-0001.wav"
    wav.write_bytes(wav.read_bytes()[:1000])
    train = get_corpus("librispeech").manifests(CONFIG, source)["train-5"]
    assert len(list(train.recordings)) == 6 and len(list(train.supervisions)) == 8
    assert "no such file" in train.problems["19-198-0000"]
    assert "cut short" in train.problems["19-198-0001"]


def test_audio_without_a_transcript_is_counted(source, caplog):
    get_corpus("librispeech").manifests(CONFIG, source)
    assert "without a transcript" not in caplog.text
    write_audio(source / "train-5" / "26" / "198" / "26-198-0009.wav")
    write_audio(source / "train-5" / "19" / "200" / "19-200-0000.flac")
    splits = get_corpus("librispeech").manifests(CONFIG, source)
    said = [line for line in caplog.messages if "without a transcript" in line]
    assert said == [
        f"{source / 'train-5'}: 2 audio files without a transcript are not used "
        "(the first: 19-200-0000)"
    ]
    assert len(splits["train-5"].supervisions) == 8


def test_missing_split_names_what_is_there(source):
    config = CorpusConfig(name="librispeech", train="train-5", dev="dev", test=["test-5"])
    with pytest.raises(
        DataError, match="no split 'dev'; directories found: dev-5, test-5, train-5"
    ):
        get_corpus("librispeech").manifests(config, source)
    with pytest.raises(DataError, match="no such directory"):
        get_corpus("librispeech").manifests(config, source / "gone")


def test_split_without_transcripts(source):
    for path in (source / "dev-5").rglob("*.trans.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"no \*.trans.txt"):
        get_corpus("librispeech").manifests(CONFIG, source)


def test_transcript_in_another_encoding(source):
    path = source / "dev-5" / "19" / "198" / "19-198.trans.txt"
    path.write_bytes("19-198-0000 CAFÉ\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        get_corpus("librispeech").manifests(CONFIG, source)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("IT'S A MAN'S WORLD", "it's a man's world"),
        ("  Hello,  World! -- 'tis \u2019twas ", "hello world 'tis 'twas"),
        ("well-known: e-mail_address", "well known e mail address"),
        ("'", ""),
        ("naïve Straße 42", "naïve straße 42"),
    ],
)
def test_english_text(text, wanted):
    assert normalize_english(text) == wanted
    assert normalize_english(wanted) == wanted
