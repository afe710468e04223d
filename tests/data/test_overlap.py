"""Splits that share utterances: refused with the option, or counted where they are few."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lmu_asr.config import CorpusConfig
from lmu_asr.data.importing.importers import import_data
from lmu_asr.data.importing.list_names import check_split_names
from lmu_asr.data.manifests import Manifests
from lmu_asr.data.overlap import refuse_shared
from lmu_asr.errors import ConfigError, DataError
from tests.data.speech import write_audio


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    for number in range(12):
        write_audio(folder / f"{number}.wav", 0.5 + number / 100, number)
    write_audio(folder / "talk.wav", 10.0)
    return folder


def listed(path: Path, rows: list[str]) -> Manifests:
    path.write_text("key,source,text,start,end\n" + "".join(f"{row}\n" for row in rows))
    return import_data(path)


def check(tmp_path: Path, train: list[str], dev: list[str], test: list[str]) -> None:
    splits = {"train": train, "dev": dev, "test": test}
    parts = {name: listed(tmp_path / f"{name}.csv", rows) for name, rows in splits.items()}
    refuse_shared(parts, CorpusConfig(name="own"))


@pytest.mark.parametrize(
    ("dev", "test", "message"),
    [
        (["d,5.wav,x,,"], ["t,0.wav,x,,"], r"^corpus.test: 1 of 1 .*'test' are in 'train'.*: t\)"),
        (["d,1.wav,x,,"], ["t,6.wav,x,,"], r"^corpus.dev: 1 of 1 .*'dev' are in 'train'"),
        (["d,5.wav,x,,"], ["t,5.wav,x,,"], r"^corpus.test: 1 of 1 .*'test' are in 'dev'"),
        (["d,5.wav,x,,"], ["t,talk.wav,x,2,4"], r"'test' are in 'train'"),  # within 1 to 5 s
        (["d,5.wav,x,,"], ["t,link.wav,x,,"], r"'test' are in 'train'"),
        (["d,5.wav,x,,"], ["a,copy.wav,one,,"], r"'test' are in 'train'"),
    ],
)
def test_shared_utterances(audio, tmp_path, dev, test, message) -> None:
    base = tmp_path / "lists"
    shutil.copytree(audio, base)
    (base / "link.wav").symlink_to("0.wav")
    shutil.copy(audio / "0.wav", base / "copy.wav")
    train = ["a,0.wav,one,,", "b,1.wav,two,,", "c,talk.wav,three,1,5"]
    with pytest.raises(DataError, match=message):
        check(base, train, dev, test)


def test_neighbours_in_a_recording_and_one_repeat_of_many(audio, tmp_path, caplog) -> None:
    base = tmp_path / "lists"
    shutil.copytree(audio, base)
    rows = [f"t{n},{n}.wav,x,," for n in range(11)]
    check(base, ["a,talk.wav,x,1,5"], ["d,talk.wav,x,4.9,6"], ["t,talk.wav,y,6,8"])
    assert caplog.text == ""
    check(base, ["x,10.wav,x,,", "a,talk.wav,x,1,5"], ["d,talk.wav,x,5,6"], rows)
    assert "1 of 11 utterances of 'test' are in 'train' too (the first: t10)" in caplog.text


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"dev": "train"}, r"corpus.dev names 'train', which is the training set"),
        ({"test": ["test", "Train"]}, r"corpus.test names 'Train', which is the training set"),
        ({"test": ["training"]}, r"corpus.test names 'training'"),
        ({"train": "a+b", "test": ["b"]}, r"corpus.test names 'b'.*corpus.train is 'a\+b'"),
        ({"test": ["dev"]}, r"corpus.test names the dev split 'dev'"),
    ],
)
def test_names_that_are_refused(splits, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_split_names(CorpusConfig(**splits))
