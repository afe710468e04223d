"""Every recipe has every variant by name, of the size that the name says."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from lmu_asr.config import Config, ModelConfig
from lmu_asr.config_files import load_config, model_from_dict
from lmu_asr.corpora import corpus_names
from lmu_asr.errors import ConfigError
from lmu_asr.models.describe import count_parameters
from lmu_asr.models.encoder import build_encoder
from lmu_asr.models.system import build_model
from lmu_asr.stages.configure import main as configure_main
from lmu_asr.stages.configure import resolve, variant_files
from lmu_asr.stages.context import places_of

EGS = Path(__file__).resolve().parents[2] / "egs"
RECIPES = sorted(p.parent.name for p in EGS.glob("*/conf"))
UNITS = {"lmu_ctc_char": "char", "lmu_ctc_bpe": "bpe", "lmu_ctc_phone": "phone"}
CONTROLS = ("lstm", "transformer", "lmu_cell", "lmu_parallel")
FIRST = ("fixed_theta", "trained_theta", "memory_384", "memory_512", "fft")
SIZES = {"s": 10e6, "m": 30e6, "l": 100e6}


def configured(recipe: str, variant: str, *sets: str) -> Config:
    values = {"recipe": recipe, "variant": variant, "data": "", "fsa": "", "set": list(sets)}
    return resolve(argparse.Namespace(**values, egs_dir=EGS, caller_dir=Path("/caller")))


@cache
def count(shape: str) -> int:
    """Parameters of a model with 80 mel bins and 500 tokens."""
    return count_parameters(build_model(model_from_dict(json.loads(shape), "test"), 80, 500))


def parameters(model: ModelConfig) -> int:
    neutral = {"dropout": 0.0, "stochastic_depth": 0.0}
    return count(json.dumps(model.to_dict() | neutral, sort_keys=True))


def test_a_recipe_for_each_corpus() -> None:
    assert corpus_names() == RECIPES
    assert all(configured(name, "default").corpus.name == name for name in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_every_variant(recipe: str) -> None:
    default = configured(recipe, "default")
    for variant in (*UNITS, "lmu_ctc_stream", *CONTROLS, *FIRST):
        if (recipe, variant) == ("aishell", "lmu_ctc_phone"):
            continue
        config = configured(recipe, variant)
        assert config.variant == variant
        assert config.corpus == default.corpus
        assert config.features == default.features
        assert config.lang.unit == UNITS.get(variant, default.lang.unit)
        assert parameters(config.model) > 1e6


@pytest.mark.parametrize("recipe", ["an4", "librispeech"])
@pytest.mark.parametrize("size", SIZES)
def test_sizes(recipe: str, size: str) -> None:
    for variant in (*UNITS, "lmu_ctc_stream", *CONTROLS):
        found = parameters(configured(recipe, f"{variant}-{size}").model)
        assert found == pytest.approx(SIZES[size], rel=0.15), variant


@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {"mini"}))
def test_controls_have_the_parameters_of_the_default(recipe: str) -> None:
    wanted = parameters(configured(recipe, "default").model)
    for control in CONTROLS:
        assert parameters(configured(recipe, control).model) == pytest.approx(wanted, rel=0.02)


def test_the_stream_has_bounded_latency() -> None:
    config = configured("librispeech", "lmu_ctc_stream")
    encoder = build_encoder(config.model, 80)
    assert encoder.streaming and encoder.latency_frames == 4 * (1 + 16)
    assert config.decode.streaming


def test_the_first_description() -> None:
    for variant in FIRST:
        model = configured("an4", variant).model
        options = model.encoder_options
        assert (model.encoder, model.num_layers) == ("lmu_parallel", 4)
        assert options.layer_thetas == [1000.0]
        assert 256 <= options.memory_order <= 512 and 512 <= options.hidden <= 1024
    assert configured("an4", "fft").model.encoder_options.memory_form == "fft"
    trained = build_encoder(configured("an4", "trained_theta").model, 80)
    fixed = build_encoder(configured("an4", "fixed_theta").model, 80)
    thetas = [v for k, v in trained.named_parameters() if k.endswith("log_theta")]
    assert len(thetas) == 4
    assert not [k for k, _ in fixed.named_parameters() if k.endswith("log_theta")]
    trained(torch.randn(1, 30, 80))[0].square().sum().backward()
    assert all(theta.grad is not None and theta.grad.abs() > 0 for theta in thetas)


def test_phones_of_another_language_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"aishell.*'zh'.*lang.lexicon=FILE"):
        configured("aishell", "lmu_ctc_phone")
    with_lexicon = configured("aishell", "lmu_ctc_phone", "lang.lexicon=lexicon.txt")
    assert with_lexicon.lang.lexicon == "/caller/lexicon.txt"
    lexicon = configured("yesno", "lmu_ctc_phone").lang.lexicon
    assert lexicon == str(EGS / "yesno" / "lexicon.txt") and Path(lexicon).is_file()


def test_parts_are_joined_in_order() -> None:
    config = configured("librispeech", "train_960-lmu_ctc_stream-l", "train.epochs=3")
    assert config.corpus.train == "train-960" and config.corpus.id == "librispeech-960"
    assert config.model.dim == 768 and not config.model.bidirectional
    assert config.train.epochs == 3
    names = [p.name for p in variant_files(EGS, "an4", "lstm-s")]
    assert names == ["default.yaml", "lstm.yaml", "s.yaml"]
    own = variant_files(EGS, "mini", "lstm")
    assert own == [EGS / "mini" / "conf" / "lstm.yaml"]


def test_wrong_names_have_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean lmu_ctc_stream"):
        configured("an4", "lmu_ctc_steam-m")
    with pytest.raises(ConfigError, match="did you mean an4"):
        configured("an5", "default")


def test_what_set_changed_is_listed_and_what_equals_the_variant_is_not() -> None:
    layers = configured("mini", "default").model.num_layers
    sets = (
        "model.dim=64",
        f"model.num_layers={layers}",
        "lm.text=a.txt",
        "decode.methods=[greedy]",
    )
    config = configured("mini", "default", *sets)
    listed = ["decode.methods=['greedy']", "lm.text=/caller/a.txt", "model.dim=64"]
    assert config.overrides == listed
    assert configured("mini", "default").overrides == []
    assert configured("mini", "default", "overrides=[x]").overrides == ["overrides=['x']"]


def start(tmp_path: Path, *arguments: str) -> int:
    places = ["--exp-dir", str(tmp_path / "exp"), "--data-dir", str(tmp_path / "data")]
    return configure_main([*places, "--caller-dir", str(tmp_path), *arguments])


def test_the_resolved_file_has_overrides_and_absolute_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corp").mkdir()
    assert start(tmp_path, "--recipe", "own", "--data", "corp/", "--set", "train.lr=0.5") == 0
    path = Path(capsys.readouterr().out.strip())
    saved = load_config(path)
    assert saved == load_config(tmp_path / "exp/corp/default/resolved.yaml")
    assert saved.overrides == ["train.lr=0.5"] and saved.train.lr == 0.5
    assert saved.corpus.source == str(tmp_path / "corp")
    assert places_of(path, saved)[0].resolve() == tmp_path / "data"


def test_each_run_reads_its_own_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corp").mkdir()
    paths = []
    for rate in ("0.5", "0.25", "0.5"):
        assert (
            start(tmp_path, "--recipe", "own", "--data", "corp", "--set", f"train.lr={rate}") == 0
        )
        paths.append(Path(capsys.readouterr().out.strip()))
    assert [load_config(path).train.lr for path in paths] == [0.5, 0.25, 0.5]
    assert paths[0] == paths[2] != paths[1]


def test_nothing_is_written_where_the_run_cannot_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path, "--stage", "0", "--data", "none", "--set", "lm.arpa=no.arpa") == 1
    errors = capsys.readouterr().err
    assert f"{tmp_path / 'none'}: No such file" in errors and "(lm.arpa)" in errors
    (tmp_path / "data").mkdir()
    assert start(tmp_path, "--recipe", "own", "--data", "data") == 1
    assert "never written to" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("variant", ["../default", "-x", "a\nb", "..", ""])
def test_variants_are_names(variant: str) -> None:
    with pytest.raises(ConfigError, match=r"--variant .*want a name of letters"):
        configured("mini", variant)


LIGHT = """
import sys
from lmu_asr.stages.configure import main
status = main(sys.argv[1:])
print(status, sorted({"torch", "lhotse", "numpy", "scipy"} & sys.modules.keys()))
"""


def test_a_configuration_loads_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    """It stands before every run, and so does what looks for the launcher of training on the CPU."""
    places = ["--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp")]
    options = ["--egs-dir", str(EGS), "--stage", "0", "--stop-stage", "6", "--ngpu", "0"]
    command = [sys.executable, "-c", LIGHT, "--recipe", "mini", "--variant", "default"]
    done = subprocess.run(
        [*command, "--caller-dir", str(tmp_path), *places, *options],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
