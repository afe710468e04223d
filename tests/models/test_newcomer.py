"""An encoder as a newcomer would add one: a file of its own, one YAML, nothing else edited."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lmu_asr.config_files import load_config, save_config
from lmu_asr.decoding.trained import load_trained
from lmu_asr.errors import ConfigError
from lmu_asr.lang.lang import Lang
from lmu_asr.models import encoders
from lmu_asr.models.system import build_model, load_model, save_model
from lmu_asr.training.run import run_training
from tests.training.tiny_data import BINS, OPTIONS, make_data

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/encoders.md").read_text()
LAYERS = PAGE.split("```python\n")[1].split("```")[0]  # the example, as it is printed
WHOLE = '''
"""Stacked frames and one product: an encoder without the shared stack."""

from dataclasses import dataclass

import torch
from torch import nn

from lmu_asr.models.encoder import Encoder
from lmu_asr.options import opt


@dataclass(frozen=True)
class Options:
    """The section model.NAME."""

    kernel: int = opt(5, "frames that are stacked", min=1)


class Stacked(Encoder):
    def __init__(self, config, options, input_dim: int) -> None:
        super().__init__(input_dim, config.dim, options.kernel)
        self.product = nn.Linear(options.kernel * input_dim, config.dim)

    def outputs(self, x, x_lens=None, taps=()):
        lens = self.checked_lens(x, x_lens)
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % self.subsampling_factor))
        y = torch.relu(self.product(x.reshape(len(x), -1, self.product.in_features)))
        return [y], self.output_lens(lens)


def build(config, options, input_dim):
    """Stacked frames."""
    return Stacked(config, options, input_dim)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose files are encoders; what they registered goes with the test."""
    folder = tmp_path / "encoders"
    folder.mkdir()
    monkeypatch.setattr(encoders, "__path__", [*encoders.__path__, str(folder)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    for file in folder.glob("*.py"):
        sys.modules.pop(f"{encoders.__name__}.{file.stem}", None)


@pytest.mark.parametrize(("name", "source"), [("gated_conv", LAYERS), ("stacked", WHOLE)])
def test_one_file_and_one_yaml_train_and_decode(
    package: Path, tmp_path: Path, name: str, source: str
) -> None:
    assert source.count("\n") < 60
    (package / f"{name}.py").write_text(source)
    variant = tmp_path / "variant.yaml"
    variant.write_text(f"model:\n  encoder: {name}\n  {name}: {{kernel: 3}}\n")
    tiny = [o for o in OPTIONS if not o.startswith("model.lmu.")]
    config = load_config(variant, [*tiny, "train.max_steps=1", "train.autoconf=true"])
    assert config.model.encoder_options.kernel == 3
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    with pytest.raises(ConfigError, match=f"did you mean 'model.{name}.kernel'"):
        load_config(variant, [f"model.{name}.kernl=3"])

    data_dir, lang_dir = make_data(tmp_path)
    run_training(config, tmp_path / "exp", data_dir, lang_dir)
    lang = Lang.load(lang_dir)
    model = load_trained(config, tmp_path / "exp", lang).model
    x, lens = torch.randn(2, 31, BINS), torch.tensor([31, 20])
    outputs, out_lens = model(x, lens)
    found = model.head.greedy(outputs, out_lens)
    assert all(len(row) <= size for row, size in zip(found, out_lens.tolist(), strict=True))
    save_model(model, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path / "model.safetensors")(x, lens)[0], outputs)
    fresh = build_model(config.model, BINS, lang.vocab_size).state_dict()
    assert not all(torch.equal(v, fresh[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package", "one: cannot be imported: No module named 'no_such_package'"),
        ("x = (", "one: cannot be imported: "),
        ("Options = 3", r"one\.py: want a dataclass Options"),
        ("from lmu_asr.models.encoders.lstm import Options", r"one\.py: want a function build"),
    ],
)
def test_a_file_that_is_no_encoder_is_named(package: Path, source: str, message: str) -> None:
    (package / "one.py").write_text(source)
    with pytest.raises(ConfigError, match=message):
        load_config(None)


@pytest.mark.parametrize("name", ["ctc", "dropout"])
def test_a_name_that_another_section_or_option_has_is_refused(package: Path, name: str) -> None:
    (package / f"{name}.py").write_text("from lmu_asr.models.encoders.lstm import Options, build")
    with pytest.raises(ConfigError, match=rf"\.{name}: the name is taken"):
        load_config(None)
    (package / f"{name}.py").rename(package / f"_{name}.py")
    load_config(None)  # a helper, no encoder
