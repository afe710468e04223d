"""The entry point on prepared data, with the real model."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from lmu_asr.checkpoints.checkpoint import load_weights
from lmu_asr.config import LangConfig
from lmu_asr.errors import CheckpointError, DataError, TrainingError
from lmu_asr.files import read_json
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.prepare import prepare_lang
from lmu_asr.models.system import build_model
from lmu_asr.training.loop.evaluation import DevResult
from lmu_asr.training.loop.metrics import read_metrics
from lmu_asr.training.loop.setup import choose_precision, make_model, prepare_process
from lmu_asr.training.parallel.processes import current_world
from lmu_asr.training.run import run_training
from tests.training.tiny_data import BINS, make_data, tiny_config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_data(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    "options",
    [
        ["model.ctc.cr_ctc=0.2", "model.ctc.label_smoothing=0.1"],
        ["train.ema=0.9"],
        ["model.ctc.inter_ctc=0.3", "model.ctc.inter_ctc_layers=[1]", "model.num_layers=2"],
        [
            "model.ctc.loss=lf_mmi",
            "model.ctc.mmi_order=2",
            "model.ctc.cr_ctc=0.2",
            "train.autoconf=true",
        ],
    ],
)
def test_training_leaves_loadable_weights(
    tmp_path: Path, prepared: tuple[Path, Path], options: list[str]
) -> None:
    config = tiny_config(*options)
    run_training(config, tmp_path, *prepared)
    assert read_json(tmp_path / "training.json")["finished"]
    losses = [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses and all(0 < loss < 10 for loss in losses)
    for name in ("best.pt", "last.pt", "averaged.pt"):
        model = build_model(config.model, BINS, Lang.load(prepared[1]).vocab_size)
        model.load_state_dict(load_weights(tmp_path / name))
    assert (tmp_path / "train.png").is_file()
    dropped = (tmp_path / "dropped.jsonl").read_text()
    assert "train-3" in dropped and dropped.count("\n") == 1


def test_with_lf_mmi_the_lowest_loss_chooses_the_epoch(
    tmp_path: Path, prepared: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(*_: object) -> DevResult:
        loss, wer = next(found)
        return DevResult(loss, wer, 4)

    monkeypatch.setattr("lmu_asr.training.loop.trainer.evaluate", judged)
    for loss, best in (("lf_mmi", 3), ("ctc", 1)):
        found = iter([(0.4, 0.5), (0.3, 0.9), (0.2, 0.7), (0.2, 0.7)])  # loss, error rate
        config = tiny_config("train.epochs=3", f"model.ctc.loss={loss}")
        run_training(config, tmp_path / loss, *prepared)
        assert read_json(tmp_path / loss / "training.json")["best_epoch"] == best


def test_lf_mmi_without_transcripts_is_named(tmp_path: Path) -> None:
    prepared = make_data(tmp_path)
    (tmp_path / "data/train_text").unlink()
    with pytest.raises(DataError, match="train_text: no transcripts; run stage 1"):
        run_training(tiny_config("model.ctc.loss=lf_mmi"), tmp_path / "exp", *prepared)


def test_weights_to_start_from(tmp_path: Path, prepared: tuple[Path, Path]) -> None:
    run_training(tiny_config(), tmp_path / "first", *prepared)
    start = tmp_path / "first/best.pt"
    config = tiny_config(f"train.init_from={start}")
    model = make_model(config, prepared[0], Lang.load(prepared[1]).vocab_size)
    weights = load_weights(start)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match=str(start)):
        make_model(tiny_config(f"train.init_from={start}", "model.dim=8"), prepared[0], 5)


def test_fine_tuning_on_other_tokens(
    tmp_path: Path, prepared: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    data_dir, _ = prepared
    other = tmp_path / "lang"
    prepare_lang(LangConfig(), ["abc ab bc"], [], other)
    run_training(tiny_config("train.average=2"), tmp_path / "first", *prepared)
    start = tmp_path / "first/averaged.pt"
    config = tiny_config(
        f"train.init_from={start}",
        "train.freeze=[encoder.subsampling.*]",
        "train.lr_scales=['encoder.*=0.5']",
    )
    run_training(config, tmp_path / "second", data_dir, other)
    before = Lang.load(prepared[1]).vocab_size
    now = Lang.load(other).vocab_size
    assert (
        f"has other tokens ({before}, here {now}): the output layer starts from random weights"
        in caplog.text
    )
    old, new = load_weights(start), load_weights(tmp_path / "second/last.pt")
    model = build_model(config.model, BINS, now)
    names = [name for name, _ in model.named_parameters() if not name.startswith("head.")]
    same = {name for name in names if torch.equal(old[name], new[name])}
    assert same == {name for name in names if name.startswith("encoder.subsampling.")}
    assert same and same != set(names)


def test_a_signal_leaves_with_status_zero_and_says_how_to_go_on(
    tmp_path: Path,
    prepared: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from lmu_asr.training.loop.source import LoaderSource

    original = LoaderSource._prepare

    def prepare_and_signal(self: LoaderSource, *args: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LoaderSource, "_prepare", prepare_and_signal)
    monkeypatch.delenv("LMU_ASR_COMMAND", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "x", "--set", "a b"])
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as left:
        run_training(tiny_config(), tmp_path, *prepared)
    assert left.value.code == 0
    assert "saved at epoch 0, batch 1, step 1" in caplog.text
    assert f"{sys.executable} -m x --set 'a b'" in caplog.text
    assert not (tmp_path / "training.json").exists()


def test_missing_statistics_are_named(tmp_path: Path, prepared: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match=r"cmvn.json: missing"):
        make_model(tiny_config(), tmp_path, 5)


def test_few_kernels_are_kept_unless_the_user_says_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    prepare_process(tiny_config(), current_world(prefer_gpu=False))
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "32"


def test_precision_on_a_cpu() -> None:
    world = current_world(prefer_gpu=False)
    got = [choose_precision(name, world) for name in ("auto", "float32", "fp16", "bf16")]
    assert got == [None, None, None, torch.bfloat16]


@pytest.mark.parametrize(
    ("env", "message"),
    [({"RANK": "2", "WORLD_SIZE": "2"}, "outside"), ({"RANK": "x"}, "want a whole number")],
)
def test_broken_environment_is_named(
    env: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=message):
        current_world()
