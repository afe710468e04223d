"""Transcription of files: the text that stage 5 finds, and files that cannot be transcribed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import RecordingSet, SupervisionSegment, SupervisionSet

from lmu_asr.config import Config, CorpusConfig, DecodeConfig, FeaturesConfig, GraphConfig
from lmu_asr.config import ModelConfig as Model
from lmu_asr.config_files import save_config
from lmu_asr.data.audio import recording_from_file
from lmu_asr.data.features import prepare_features
from lmu_asr.data.manifests import Manifests
from lmu_asr.decoding.decode import run_decoding
from lmu_asr.fsa.graphs import compile_graph
from lmu_asr.lang.ngram import train_ngram, write_arpa
from lmu_asr.models.model import build_model
from lmu_asr.scoring.transcripts import read_recogs
from lmu_asr.stages import transcribe as stage
from lmu_asr.stages.common import Context
from lmu_asr.training.checkpoint import load_checkpoint, save_checkpoint
from tests.decoding.fakes import make_lang

TEXTS = ["one two", "two three one", "three", "one"]
# name: sample rate and channels
FILES = {"a.wav": (16000, 1), "b.flac": (8000, 2), "c d.wav": (44100, 1), "e.wav": (16000, 2)}
CONFIG = Config(
    corpus=CorpusConfig(dev="dev", test=["test"]),
    features=FeaturesConfig(num_mel_bins=20),
    model=Model(
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
    stems = {"_".join(str(path).split()): path.stem for path in decoded.files}
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


def test_scales_of_stage_5_or_a_word_that_there_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    experiment = Experiment(tmp_path)
    assert experiment.transcribe() == 0
    assert "has no scales of HLG" in caplog.text
    assert "least of the lists: acoustic_scale 1, lm_scale 0.2" in caplog.text
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
        (["--method", "viterbi"], "method 'viterbi': want one of greedy, prefix_beam"),
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
