"""Transcription of files: the text that stage 5 finds, and files that cannot be transcribed."""

from __future__ import annotations

import gc
import io
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from lmu_asr.config import Config, CorpusConfig, DecodeConfig, FeaturesConfig, GraphConfig
from lmu_asr.config_files import save_config
from lmu_asr.data.audio.mono import FIRST_CHANNEL, SCALED
from lmu_asr.data.audio.reader import recording_from_file
from lmu_asr.data.features.prepare import prepare_features
from lmu_asr.data.manifests import Manifests
from lmu_asr.decoding.decode import run_decoding
from lmu_asr.fsa.graphs import compile_graph
from lmu_asr.lang.ngram import train_ngram, write_arpa
from lmu_asr.models.system import build_model
from lmu_asr.scoring.transcripts import read_recogs
from lmu_asr.stages import transcribe as stage
from lmu_asr.stages.common import Context
from tests.data.encoded import encode
from tests.decoding.fakes import make_lang
from tests.models.small import model_config

TEXTS = ["one two", "two three one", "three", "one"]
# name: sample rate and channels
FILES = {"a.wav": (16000, 1), "b.flac": (8000, 2), "c d.wav": (44100, 1), "e.wav": (16000, 2)}
CONFIG = Config(
    corpus=CorpusConfig(dev="dev", test=["test"]),
    features=FeaturesConfig(num_mel_bins=20),
    model=model_config(
        dim=16,
        num_layers=1,
        subsampling_channels=4,
        memory_order=4,
        thetas=[4.0],
        bidirectional=False,
    ),
    decode=DecodeConfig(
        methods=["greedy", "HLG"], lm_scales=[0.9, 0.2], blank_penalties=[2.0], bootstrap=100
    ),
    graph=GraphConfig(fsa="openfst"),
)


def make_audio(path: Path, rate: int, channels: int, seed: int) -> None:
    """A second and a half of noise whose colour and level change every tenth of a second."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(1.5 * rate)) / rate
    pitch = rng.uniform(100, 3000, (16, channels)).repeat(rate // 10, axis=0)[: len(time)]
    level = rng.uniform(0.01, 0.4, (16, channels)).repeat(rate // 10, axis=0)[: len(time)]
    noise = 0.003 * rng.normal(size=(len(time), channels))
    soundfile.write(path, level * np.sin(2 * np.pi * pitch * time[:, None]) + noise, rate)


class Experiment:
    """Audio, features, lang, graphs and an untrained model, where the stages leave them."""

    def __init__(self, root: Path) -> None:
        self.root, self.config = root, root / "config.yaml"
        save_config(CONFIG, self.config)
        self.context = Context(CONFIG, root / "data", root / "exp", "", 1)
        self.files = [root / name for name in FILES]
        for seed, (rate, channels) in enumerate(FILES.values()):
            make_audio(self.files[seed], rate, channels, seed)
        self._features()
        self._lang_and_model()

    def _features(self) -> None:
        recordings = [recording_from_file(path, path.stem) for path in self.files]
        said = [
            SupervisionSegment(r.id, r.id, 0.0, r.duration, r.channel_ids, "one two")
            for r in recordings
        ]
        manifests = Manifests(
            RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(said)
        )
        out = self.context.features_dir
        out.mkdir(parents=True)
        for split in ("dev", "test"):
            prepare_features(manifests, split, CONFIG.features, out)

    def _lang_and_model(self) -> None:
        context = self.context
        lang = make_lang(context.lang_dir, TEXTS)
        arpa = context.graph_dir / "G.arpa"
        arpa.parent.mkdir()
        write_arpa(train_ngram(TEXTS, 2), arpa)
        compile_graph("HLG", lang, arpa, arpa.with_name("HLG.fst"), GraphConfig())
        torch.manual_seed(0)
        model = build_model(CONFIG.model, 20, lang.vocab_size)
        model.set_cmvn(torch.full((20,), -9.0), torch.full((20,), 4.0))
        for weight in model.head.parameters():  # outputs that tell one frame from another
            torch.nn.init.normal_(weight, std=2.0)
        context.exp_dir.mkdir(parents=True)
        save_checkpoint(context.exp_dir / "best.pt", {"model": model.state_dict()}, {})

    def decode(self, config: Config = CONFIG) -> None:
        context = self.context
        directories = (context.exp_dir, context.features_dir, context.lang_dir, context.graph_dir)
        run_decoding(config, *directories)

    def transcribe(self, *arguments: object, files: Sequence[Path] | None = None) -> int:
        directories = ["--data-dir", self.root / "data", "--exp-dir", self.root / "exp"]
        every = ["--config", self.config, *directories, *arguments, *(files or self.files)]
        return stage.main([str(argument) for argument in every])


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    experiment = Experiment(tmp_path_factory.mktemp("work"))
    experiment.decode()
    return experiment


@pytest.mark.parametrize("method", ["", "greedy", "HLG"])
def test_text_and_times_are_those_of_stage_5(
    decoded: Experiment, method: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--method", method] if method else []
    assert decoded.transcribe("--ctm", tmp_path / "new" / "words.ctm", *arguments) == 0
    name = f"test-{method or 'HLG'}"
    recogs = read_recogs(decoded.context.decode_dir / f"recogs-{name}.txt")
    wanted = {path: " ".join(recogs[path.stem][1]) for path in decoded.files}
    assert len(set(wanted.values())) > 2  # different audio, different text
    lines = [f"{path}\t{text}\n" for path, text in wanted.items()]
    assert capsys.readouterr().out == "".join(lines)
    stems = {str(path).replace(" ", "%20"): path.stem for path in decoded.files}
    times = [line.split() for line in read_lines(tmp_path / "new" / "words.ctm")]
    ctm = decoded.context.decode_dir / f"words-{name}.ctm"
    assert ctm.is_file() == (method != "greedy")  # noise in letters has no words with times
    wanted_times = [line.split() for line in read_lines(ctm)] if ctm.is_file() else []
    assert sorted([*stems[t[0]].split(), *t[1:]] for t in times) == sorted(wanted_times)


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_chunks_give_the_same_text(decoded: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    assert decoded.transcribe() == 0
    whole = capsys.readouterr().out
    assert decoded.transcribe("--streaming") == 0
    assert capsys.readouterr().out == whole


def test_a_bad_file_is_named_and_the_others_are_done(
    decoded: Experiment, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing, text, short = (tmp_path / name for name in ("none.wav", "text.wav", "short.wav"))
    text.write_text("no audio")
    hiss = 0.1 * np.random.default_rng(0).normal(size=800)
    soundfile.write(short, hiss, 16000)
    first, last = decoded.files[0], decoded.files[-1]
    assert decoded.transcribe(files=[first, missing, text, short, last]) == 1
    found = capsys.readouterr()
    assert [line.split("\t")[0] for line in found.out.splitlines()] == [str(first), str(last)]
    assert f"not transcribed: {missing}: no such file" in found.err
    assert f"not transcribed: {text}: not readable as audio" in found.err
    assert f"{short}: too short: 0.050 s, features.min_duration is 0.1 s" in found.err
    assert decoded.transcribe("--set", "features.min_duration=0", files=[short]) == 0
    soundfile.write(short, hiss[:20], 16000)
    assert decoded.transcribe("--set", "features.min_duration=0", files=[short]) == 1
    assert f"{short}: too short: 0 frames" in capsys.readouterr().err


def test_names_neither_collide_nor_break_a_line(
    decoded: Experiment, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ["a b.wav", "a_b.wav", "a%20b.wav", "a\n\tb.wav", "\udce9.wav"]
    files = [tmp_path / name for name in names]
    for path in files:
        path.write_bytes(decoded.files[0].read_bytes())
    ctm = tmp_path / "words.ctm"
    assert decoded.transcribe("--method", "HLG", "--ctm", ctm, files=files) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    wanted = ["a b.wav", "a_b.wav", "a%2520b.wav", "a%0A%09b.wav", "%E9.wav"]
    assert [Path(name).name for name, _ in lines] == wanted
    assert len({text for _, text in lines}) == 1 and lines[0][1]
    fields = [line.split() for line in read_lines(ctm)]
    assert {len(field) for field in fields} == {6}
    found = list(dict.fromkeys(Path(field[0]).name for field in fields))
    assert found == [name.replace(" ", "%20") for name in wanted]


def test_silence_has_no_words_and_says_so(
    decoded: Experiment,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    hiss = np.random.default_rng(0).normal(size=(16000, 1)) * 0.1
    sounds = {
        "zeros": np.zeros((16000, 2)),
        "constant": np.full((16000, 1), 0.5),
        "plain": hiss,
        "inverted": np.hstack([hiss, -hiss]),
        "int16": hiss * 32768,
    }
    files = [tmp_path / f"{name}.wav" for name in sounds]
    for path, samples in zip(files, sounds.values(), strict=True):
        soundfile.write(path, samples, 16000, subtype="FLOAT")
    ctm = tmp_path / "words.ctm"
    assert decoded.transcribe("--ctm", ctm, files=files) == 0
    texts = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert texts[:2] == ["", ""] and not {"zeros", "constant"} & {*ctm.read_text().split()}
    assert texts[2] and texts[2:] == [texts[2]] * 3
    assert f"no words: '{files[0]}' is silent: all of its 16000 samples are 0" in caplog.text
    assert f"no words: '{files[1]}' is silent: all of its 16000 samples are 0.5" in caplog.text
    assert f"{files[3]}: {FIRST_CHANNEL}" in caplog.text
    assert f"{files[4]}: {SCALED}" in caplog.text


def test_no_bad_file_ends_the_batch(
    decoded: Experiment, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    raw, locked, film = (tmp_path / name for name in ("a.raw", "locked.wav", "film.mp4"))
    raw.write_bytes(bytes(32000))
    locked.symlink_to(tmp_path / "locked.wav")  # a loop
    encode(film, [], 16000, "aac", video=True)
    bad = [raw, locked, film, tmp_path, tmp_path / ("x" * 300)]
    assert decoded.transcribe(files=[*bad, decoded.files[0]]) == 1
    found = capsys.readouterr()
    assert found.out.startswith(str(decoded.files[0]))
    assert len(found.out.splitlines()) == 1
    assert found.err.count("not transcribed") == len(bad)
    assert f"{film}: not readable as audio: no audio track in it (found: video)" in found.err


def test_formats_of_phones_and_browsers(
    decoded: Experiment, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    samples, rate = soundfile.read(decoded.files[0], always_2d=True)
    m4a = encode(tmp_path / "a.M4A", [samples.T], rate, "alac")
    webm = encode(tmp_path / "a.webm", [samples.T.repeat(3, axis=1)], 48000, "libopus")
    assert decoded.transcribe(files=[decoded.files[0], m4a, webm]) == 0
    wav_text, m4a_text, webm_text = (
        line.split("\t")[1] for line in capsys.readouterr().out.splitlines()
    )
    assert wav_text == m4a_text
    assert webm_text


def test_scales_of_stage_5_or_a_word_that_there_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    experiment = Experiment(tmp_path)
    assert experiment.transcribe() == 0
    assert "has no scales of HLG" in caplog.text
    assert "smallest of each list: acoustic_scale 1, lm_scale 0.2" in caplog.text
    experiment.decode(replace(CONFIG, decode=replace(CONFIG.decode, lm_scales=[0.35])))
    caplog.clear()
    assert experiment.transcribe() == 0
    assert "lm_scale 0.35" in caplog.text
    assert "another checkpoint" not in caplog.text
    best = experiment.context.exp_dir / "best.pt"
    save_checkpoint(best.with_name("last.pt"), {"model": load_checkpoint(best).weights}, {"n": 1})
    assert experiment.transcribe("--set", "decode.checkpoint=last") == 0
    assert "tuned with another checkpoint" in caplog.text
    best.unlink()
    assert experiment.transcribe() == 1
    assert "best.pt: no such checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "viterbi"], "search 'viterbi': want one of greedy, prefix_beam"),
        (["--set", "decode.methods=[]"], "decode.methods is empty"),
        (["--method", "HL"], "HL.fst"),
        (["--set", "model.normalize=utterance", "--streaming"], "cannot stream"),
    ],
)
def test_what_cannot_begin_ends_with_a_line(
    decoded: Experiment,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert decoded.transcribe(*arguments) == 1
    found = capsys.readouterr()
    assert not found.out
    assert found.err.splitlines()[-1].startswith("transcribe: error: ")
    assert message in found.err


@pytest.mark.parametrize("name", ["another.wav", "NEW.FLAC"])
def test_word_times_are_not_written_over_audio(
    decoded: Experiment, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"a recording")
    assert decoded.transcribe("--ctm", tmp_path / name, files=[decoded.files[0]]) == 1
    assert f"--ctm {tmp_path / name}: word times would be written over audio" in (
        capsys.readouterr().err
    )
    assert (tmp_path / name).read_bytes() == b"a recording"


def test_bytes_of_a_name_are_shown_in_one_way(
    decoded: Experiment, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad, long = tmp_path / "bad\udce9.wav", tmp_path / "long\udce9.wav"
    bad.write_text("no audio")
    long.write_bytes(decoded.files[0].read_bytes())
    assert decoded.transcribe("--set", "features.max_duration=1", files=[bad, long]) == 1
    found = capsys.readouterr()
    assert f"not transcribed: {tmp_path}/bad%E9.wav: not readable" in found.err
    assert found.out.startswith(f"{tmp_path}/long%E9.wav\t")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.m4a"])
def test_standard_input_and_named_pipes_are_read(
    decoded: Experiment,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
) -> None:
    file, fifo = tmp_path / name, tmp_path / "fifo"
    samples, rate = soundfile.read(decoded.files[0], always_2d=True)
    if name == "a.m4a":
        encode(file, [samples.T], rate, "alac")
    else:
        soundfile.write(file, samples, rate)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(file.read_bytes()))
    writer.start()
    ctm = tmp_path / "words.ctm"
    paths = [Path("-"), fifo, file]
    assert decoded.transcribe("--method", "HLG", "--ctm", ctm, files=paths) == 0
    writer.join()
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == ["-", str(fifo), str(file)]
    assert len({text for _, text in lines}) == 1 and lines[0][1]
    assert {line.split()[0] for line in read_lines(ctm)} == {"-", str(fifo), str(file)}
    gc.collect()
    assert not list((tmp_path / "tmp").iterdir())


def test_what_cannot_be_read_of_a_pipe_is_named(
    decoded: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decoded.files[0].read_bytes()
    for data, reason in ((whole[:-1000], "cut short: "), (b"", "empty file"), (b"hello", "not r")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert decoded.transcribe(files=[Path("-")]) == 1
        assert f"not transcribed: -: {reason}" in capsys.readouterr().err
    monkeypatch.setattr("lmu_asr.data.piped_file.MOST_BYTES", 1000)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(whole)))
    assert decoded.transcribe(files=[Path("-")]) == 1
    assert "not transcribed: -: more than 0 GiB came" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)
    assert decoded.transcribe(files=[Path("-")]) == 1
    assert "not transcribed: -: standard input is closed" in capsys.readouterr().err


def test_a_file_of_the_name_of_standard_input(
    decoded: Experiment,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_bytes(decoded.files[0].read_bytes())
    directories = ["--data-dir", f"{decoded.root}/data", "--exp-dir", f"{decoded.root}/exp"]
    assert stage.main(["--config", str(decoded.config), *directories, "./-"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/-\t")
