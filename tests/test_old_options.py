"""Options under the names of earlier versions: in files, on the command line, in what was saved."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lmu_asr.checkpoints.identity import Identity, shaping_options
from lmu_asr.config import options
from lmu_asr.config_files import config_from_dict, load_config, model_from_dict
from lmu_asr.errors import CheckpointError, ConfigError
from lmu_asr.models.system import build_model, load_model, save_model
from lmu_asr.old_options import RENAMED, renamed_flat, say_renamed
from lmu_asr.stages.configure import override_keys
from tests.models.small import SMALL, model_config

# model sections as the version before wrote them
OLD_MODEL: dict[str, Any] = {
    "encoder": "lmu_parallel",
    "dim": 8,
    "num_layers": 2,
    "subsampling": 4,
    "frontend": "linear",
    "subsampling_channels": 64,
    "memory_order": 4,
    "thetas": [3.0, 9.0],
    "trainable_theta": False,
    "hidden": 5,
    "expansion": 1.0,
    "ff_mult": 2.0,
    "conv_kernel": 0,
    "lookahead": 0,
    "bidirectional": True,
    "num_heads": 2,
    "dropout": 0.1,
    "stochastic_depth": 0.0,
    "grad_checkpoint": False,
    "memory_form": "auto",
    "normalize": "global",
}
OLD_TRAIN = {"loss": "lf_mmi", "mmi_order": 2, "cr_ctc": 0.2, "inter_ctc": 0.3, "anneal_steps": 7}


@pytest.fixture(autouse=True)
def unsaid() -> None:
    say_renamed.cache_clear()


def test_every_new_name_is_an_option_and_no_old_one_is() -> None:
    known = {option.key for option in options()}
    assert {new for keys in RENAMED.values() for new in keys} <= known
    assert not known & set(RENAMED)


def test_a_saved_configuration_is_read_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"model": OLD_MODEL, "train": OLD_TRAIN, "overrides": ["model.hidden=5", "seed=1"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    for _ in range(2):
        config = load_config(tmp_path / "config.yaml")
    model, ctc = config.model.encoder_options, config.model.head_options
    assert (model.memory_order, model.layer_thetas, model.hidden) == (4, [3.0, 9.0], 5)
    assert (ctc.loss, ctc.mmi_order, ctc.inter_ctc, ctc.anneal_steps) == ("lf_mmi", 2, 0.3, 7)
    assert config.overrides == ["model.lmu_parallel.hidden=5", "seed=1"]
    (line,) = caplog.messages
    now = "model.memory_order is now model.lmu_parallel.memory_order, and 13 more have other names"
    assert f"config.yaml: {now}" in line and "\n" not in line


@pytest.mark.parametrize("encoder", ["lmu", "lmu_cell", "lmu_parallel", "lstm", "transformer"])
def test_a_base_for_all_encoders_counts_for_the_chosen_one(tmp_path: Path, encoder: str) -> None:
    (tmp_path / "base.yaml").write_text("model: {memory_order: 5, hidden: 7, num_heads: 2}\n")
    (tmp_path / "top.yaml").write_text(f"base: base.yaml\nmodel: {{encoder: {encoder}}}\n")
    found = load_config(tmp_path / "top.yaml").to_dict()["model"]
    wanted = {"memory_order": 5, "hidden": 7, "num_heads": 2}
    assert {k: v for k, v in wanted.items() if k in found[encoder]}.items() <= found[
        encoder
    ].items()
    assert set(found) & {"lmu", "lmu_cell", "lmu_parallel", "lstm", "transformer"} == {encoder}


def test_set_takes_old_names(caplog: pytest.LogCaptureFixture) -> None:
    sets = ["model.encoder=lmu_cell", "model.thetas=[5]", "train.cr_ctc=0.5"]
    config = load_config(None, sets)
    assert config.model.encoder_options.layer_thetas == [5.0]
    assert config.model.head_options.cr_ctc == 0.5
    keys = {"model.encoder", "model.lmu_cell.layer_thetas", "model.ctc.cr_ctc"}
    assert override_keys(sets, config.model) == keys
    assert caplog.messages[0].startswith("--set: model.thetas is now model.lmu_cell.layer_thetas (")
    assert len(caplog.messages) == 2
    with pytest.raises(
        ConfigError, match=r"^--set model\.num_heads=2: .*transformer.*lmu is chosen"
    ):
        load_config(None, ["model.num_heads=2"])
    with pytest.raises(ConfigError, match=r"^--set model\.lmu\.thetas=0\.5: below"):
        load_config(None, ["model.thetas=[0.5]"])


def test_one_option_under_both_names_is_refused() -> None:
    values = {"model": {"memory_order": 5, "lmu": {"memory_order": 5}}}
    with pytest.raises(
        ConfigError, match=r"f: model\.memory_order is now model\.lmu\.memory_order"
    ):
        config_from_dict(values, "f")
    with pytest.raises(ConfigError, match=r"f: model\.memory_order"):
        config_from_dict({"model": {"memory_order": 5, "lmu": 3}}, "f")


def test_a_saved_model_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(model_from_dict(OLD_MODEL, "test"), 5, 7).eval()
    path = tmp_path / "m.safetensors"
    save_model(model, path)
    about = yaml.safe_load((tmp_path / "m.safetensors.yaml").read_text())
    assert about["model"] == model.config.to_dict() and "lmu" not in about["model"]
    about["model"] = OLD_MODEL
    (tmp_path / "m.safetensors.yaml").write_text(yaml.safe_dump(about))
    old = load_model(path)
    x = torch.randn(1, 9, 5)
    assert old.config == model.config and torch.equal(old(x)[0], model(x)[0])
    assert model_config(SMALL, encoder="lmu_parallel", hidden=5) == model.config


def test_an_unfinished_run_goes_on() -> None:
    values = {"model": OLD_MODEL, "train": OLD_TRAIN}
    now = shaping_options(config_from_dict(values, "test"))
    assert now["model.lmu_parallel.hidden"] == 5 and now["model.head"] == "ctc"
    saved = {key: value for key, value in now.items() if key.count(".") < 2 and key != "model.head"}
    ctc = {f"train.{k.rpartition('.')[2]}": v for k, v in now.items() if k.startswith("model.ctc.")}
    saved |= {f"model.{k}": v for k, v in OLD_MODEL.items()} | ctc
    identity = Identity("m", "t", now)
    identity.check({"manifest": "m", "tokens": "t", "config": saved}, "last.pt")
    identity.check(identity.to_json(), "last.pt")
    for key, new in (
        ("model.hidden", "model.lmu_parallel.hidden"),
        ("train.loss", "model.ctc.loss"),
    ):
        other = {"manifest": "m", "tokens": "t", "config": saved | {key: "x"}}
        with pytest.raises(CheckpointError, match=f"was made with {new}='x', now {now[new]!r}"):
            identity.check(other, "last.pt")
    assert renamed_flat({"seed": 3}) == {"seed": 3}


def test_nothing_is_said_of_new_names(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load_config(None, ["model.lmu.thetas=[5]"])
    assert not caplog.messages
