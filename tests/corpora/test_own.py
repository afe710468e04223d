"""Own data: named splits, and splits by hash."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora import get_corpus, own
from lmu_asr.corpora.own import split_manifests
from lmu_asr.data.manifests import Manifests
from lmu_asr.data.rows import Rows
from lmu_asr.errors import ConfigError, DataError
from tests.data.speech import write_audio

CONFIG = CorpusConfig(name="own")


def made(speakers: dict[str, str | None]) -> Manifests:
    """One second of each utterance, without files."""
    return Manifests(
        RecordingSet.from_recordings(Recording(u, [], 16000, 16000, 1.0) for u in speakers),
        SupervisionSet.from_segments(
            SupervisionSegment(u, u, 0.0, 1.0, text="x", speaker=s) for u, s in speakers.items()
        ),
    )


def ids(splits: dict[str, Manifests]) -> dict[str, set[str]]:
    return {name: {s.id for s in part.supervisions} for name, part in splits.items()}


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text(min_size=1), min_size=3, max_size=200), st.floats(0.0, 0.5))
def test_each_utterance_in_one_split_and_none_empty(names, fraction):
    config = CorpusConfig(dev_fraction=fraction, test_fraction=fraction)
    splits = ids(split_manifests(made(dict.fromkeys(names)), config))
    assert list(splits) == ["train", "dev", "test"]
    assert sorted(u for part in splits.values() for u in part) == sorted(names)
    assert all(splits.values())


def places_of(units: set[str], fractions: list[float]) -> dict[str, str]:
    """The rule over a whole list: by the hash's position, then the lowest of the fullest to each empty."""
    names, places = ["dev", "test", "more"], {}
    for unit in sorted(units, key=own._position):
        shares = zip(names, [sum(fractions[:i]) for i in range(1, 4)], strict=True)
        position = own._position(unit)
        places[unit] = next((name for name, end in shares if position < end), "train")
    for name in ["train", *names]:
        if name not in places.values():
            counts = Counter(places.values())
            fullest = max(counts, key=counts.__getitem__)
            places[next(u for u in units_by_position(units) if places[u] == fullest)] = name
    return places


def units_by_position(units: set[str]) -> list[str]:
    return sorted(units, key=own._position)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.text(max_size=4), min_size=5, max_size=60),
    st.lists(st.sampled_from([0.0, 0.05, 0.125, 0.25]), min_size=3, max_size=3),
)
def test_places_are_found_without_the_whole_list(units, fractions):
    rows = Rows(str, [*units, *list(units)[:3]])
    found = own.Places(rows, ["dev", "test", "more"], fractions, "train")
    wanted = places_of(units, fractions)
    assert {unit: found.of(unit) for unit in units} == wanted
    assert {name: n for name, n in found.counts.items() if n} == Counter(wanted.values())


def test_fractions_and_stability():
    names = [f"utt{i}" for i in range(4000)]
    before = ids(split_manifests(made(dict.fromkeys(names[:2000])), CONFIG))
    after = ids(split_manifests(made(dict.fromkeys(names)), CONFIG))
    for name in ("train", "dev", "test"):
        assert before[name] <= after[name]
    assert len(after["dev"]) == pytest.approx(400, abs=80)
    assert len(after["test"]) == pytest.approx(400, abs=80)


def test_speakers_stay_whole_from_ten_on():
    speakers = {f"utt{i}": f"s{i % 10}" for i in range(100)}
    splits = ids(split_manifests(made(speakers), CONFIG))
    heard = [{speakers[u] for u in part} for part in splits.values()]
    assert sum(map(len, heard)) == 10 and all(heard)
    nine = {u: s for u, s in speakers.items() if s != "s9"}
    shared = ids(split_manifests(made(nine), CONFIG))
    assert {nine[u] for u in shared["train"]} & {nine[u] for u in shared["dev"]}


def test_too_few():
    with pytest.raises(DataError, match="3 utterances cannot be split into train, dev, test, more"):
        split_manifests(made(dict.fromkeys(["a", "b", "c"])), CorpusConfig(test=["test", "more"]))


def write_list(path: Path, names: list[str]) -> None:
    rows = []
    for i, name in enumerate(names):
        audio = write_audio(path.parent / "wav" / f"{name}.wav", 0.3, i)
        rows.append(json.dumps({"key": name, "source": str(audio), "target": "Hello, World"}))
    path.write_text("\n".join(rows) + "\n")


def test_twenty_utterances_in_one_list(tmp_path, caplog):
    caplog.set_level("INFO")
    write_list(tmp_path / "all.jsonl", [f"u{i}" for i in range(20)])
    for source in (tmp_path / "all.jsonl", tmp_path):
        splits = ids(get_corpus("own").manifests(CONFIG, source))
        assert sum(len(part) for part in splits.values()) == 20 and all(splits.values())
    assert "split by a hash of the utterance id: train 1" in caplog.text


def test_named_splits(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("train", "dev", "test"):
        write_list(tmp_path / f"{name}.jsonl", [f"{name}{i}" for i in range(4)])
    splits = ids(get_corpus("own").manifests(CONFIG, tmp_path))
    assert splits == {n: {f"{n}{i}" for i in range(4)} for n in ("train", "dev", "test")}
    (tmp_path / "dev.jsonl").unlink()
    splits = ids(get_corpus("own").manifests(CONFIG, tmp_path))
    assert splits["test"] == {f"test{i}" for i in range(4)}
    assert splits["dev"] and splits["train"] | splits["dev"] == {f"train{i}" for i in range(4)}
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(DataError, match="has test but no 'train'"):
        get_corpus("own").manifests(CONFIG, tmp_path)


def said(caplog) -> list[str]:
    return [line for line in caplog.messages if "without a transcript" in line]


def test_audio_that_no_list_names_is_counted(tmp_path, caplog):
    for name in ("train", "dev", "test"):  # all lie in one directory
        write_list(tmp_path / f"{name}.jsonl", [f"{name}{i}" for i in range(4)])
    rows = (tmp_path / "dev.jsonl").read_text()
    other = tmp_path / "link"
    other.symlink_to(tmp_path / "wav")
    (tmp_path / "dev.jsonl").write_text(rows.replace(str(tmp_path / "wav"), "link"))
    (tmp_path / "wav" / "test3.wav").write_bytes(b"")  # named, though not readable
    get_corpus("own").manifests(CONFIG, tmp_path)
    assert said(caplog) == []
    for name in ("b", "a"):
        write_audio(tmp_path / "wav" / f"{name}.wav")
    get_corpus("own").manifests(CONFIG, tmp_path)
    end = "audio files without a transcript are not used (the first: a)"
    assert said(caplog) == [f"{tmp_path}: 2 {end}"]
    caplog.clear()
    get_corpus("own").manifests(CONFIG, tmp_path / "train.jsonl")
    assert said(caplog) == [f"{tmp_path}/train.jsonl: 10 {end}"]


def test_recordings_without_segments_are_counted(tmp_path, caplog):
    names = [f"u{i}" for i in range(5)]
    paths = {name: write_audio(tmp_path / f"{name}.wav", 0.5) for name in names}
    (tmp_path / "wav.scp").write_text("".join(f"{n} {p}\n" for n, p in paths.items()))
    (tmp_path / "segments").write_text("".join(f"{n}-1 {n} 0.1 0.4\n" for n in names[2:]))
    (tmp_path / "text").write_text("".join(f"{n}-1 yes\n" for n in names[2:]))
    get_corpus("own").manifests(CONFIG, tmp_path)
    assert said(caplog) == [
        f"{tmp_path}/segments: 2 audio files without a transcript are not used (the first: u0)"
    ]
    (tmp_path / "segments").unlink()
    (tmp_path / "text").write_text("".join(f"{n} yes\n" for n in names))
    caplog.clear()
    get_corpus("own").manifests(CONFIG, tmp_path)
    assert said(caplog) == []
    write_audio(tmp_path / "of_no_line.wav")
    get_corpus("own").manifests(CONFIG, tmp_path)
    assert "1 audio files" in said(caplog)[0] and "of_no_line" in said(caplog)[0]


def test_own_data_in_librispeech_layout_say_it_once(tmp_path, caplog):
    folder = tmp_path / "s1" / "c1"
    names = [f"u{i}" for i in range(6)]
    for name in names:
        write_audio(folder / f"{name}.wav")
    (folder / "c1.trans.txt").write_text("".join(f"{n} yes\n" for n in names[:5]))
    get_corpus("own").manifests(CONFIG, tmp_path)
    assert len(said(caplog)) == 1 and "1 audio files" in said(caplog)[0]


def test_source_must_be_given(tmp_path):
    with pytest.raises(DataError, match="--data PATH"):
        get_corpus("own").download(CONFIG, tmp_path, 0)


def test_unknown_corpus_has_a_hint():
    with pytest.raises(ConfigError, match="did you mean 'librispeech'"):
        get_corpus("librispeach")


def write_column(path: Path, words: list[str]) -> Path:
    rows = (
        {"key": f"u{i}", "source": f"{i}.wav", "text": "x", "split": w} for i, w in enumerate(words)
    )
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(
            "key,source,text,split\n" + "".join(",".join(r.values()) + "\n" for r in rows)
        )
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_the_split_of_a_list_counts(tmp_path, suffix):
    words = ["train", "valid", "training", "test"]
    words[2] = "train"
    path = write_column(tmp_path / f"a{suffix}", words)
    splits = get_corpus("own").manifests(CONFIG, path)
    assert ids(splits) == {"train": {"u0", "u2"}, "dev": {"u1"}, "test": {"u3"}}
    path = write_column(tmp_path / f"a{suffix}", [*["train"] * 9, "eval", "dev"])
    assert ids(get_corpus("own").manifests(CONFIG, path))["test"] == {"u9"}
    path = write_column(tmp_path / f"a{suffix}", [*["train"] * 9, "test"])
    splits = ids(get_corpus("own").manifests(CONFIG, path))
    assert splits["test"] == {"u9"} and splits["dev"] and len(splits["train"] | splits["dev"]) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "other"], r"a.csv:3: split 'other' is none of train, dev, test.*corpus.test"),
        (["dev", "test"], r"has dev, test but no 'train'"),
        (["train", "Train"], r"'train' and 'Train' both mean the split 'train'"),
        (["train", "dev", "valid"], r"'dev' and 'valid' both mean the split 'dev'"),
        (["train", "valid", "val"], r"'val' and 'valid' both mean the split 'dev'"),
        ([f"s{i}" for i in range(101)], r"more than 100 different splits"),
    ],
)
def test_splits_that_are_none(tmp_path, words, message):
    with pytest.raises(DataError, match=message):
        get_corpus("own").manifests(CONFIG, write_column(tmp_path / "a.csv", words))


def test_a_training_set_is_never_offered_as_a_test(tmp_path):
    path = write_column(tmp_path / "a.csv", ["mine", "train"])
    with pytest.raises(DataError) as caught:
        get_corpus("own").manifests(CorpusConfig(name="own", train="mine"), path)
    assert "'train' is none of mine" in str(caught.value) and "[" not in str(caught.value)


def test_two_files_that_are_one_split(tmp_path):
    for name in ("train", "Training"):
        write_column(tmp_path / f"{name}.csv", ["train"] * 5)
    with pytest.raises(DataError, match="'train' and 'Training' both mean the split 'train'"):
        get_corpus("own").manifests(CONFIG, tmp_path)


def test_a_list_that_is_a_split_by_its_name(tmp_path):
    write_column(tmp_path / "train.csv", ["train"] * 9)
    write_column(tmp_path / "valid.csv", ["dev", "valid"])
    with pytest.raises(DataError, match=r"valid.csv: 'dev' and 'valid' both mean the split 'dev'"):
        get_corpus("own").manifests(CONFIG, tmp_path)
    (tmp_path / "train").mkdir()  # of audio, beside its list
    write_column(tmp_path / "valid.csv", ["valid"])
    splits = get_corpus("own").manifests(CONFIG, tmp_path)
    assert {name: len(part.supervisions) for name, part in splits.items()} == {
        "train": 8,
        "test": 1,
        "dev": 1,
    }
