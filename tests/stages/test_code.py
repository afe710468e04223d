"""A stage's key follows the code that the stage runs, and no other."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lmu_asr.config import Config
from lmu_asr.config_files import load_config, option_value
from lmu_asr.stages.code import PACKAGE, Closure, CodeBase
from lmu_asr.stages.common import NAMES

STAGES = NAMES[:6]


def option(config: Config) -> Callable[[str], Any]:
    return lambda key: option_value(config, key)


def digests(root: Path, config: Config) -> dict[str, dict[str, str]]:
    code = CodeBase(root)  # what it has not read before
    found = {n: Closure(code, option(config)).of(f"lmu_asr.stages.{n}:run") for n in STAGES}
    code.save()
    return {name: dict(modules) for name, modules in found.items()}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("code") / "lmu_asr"
    shutil.copytree(PACKAGE, root, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", False)  # what is read is kept for the next edit
        digests(root, with_loss("ctc"))
    return root


@pytest.fixture(scope="module")
def before(package: Path) -> dict[str, dict[str, dict[str, str]]]:
    return {loss: digests(package, with_loss(loss)) for loss in ("ctc", "lf_mmi")}


@pytest.fixture
def edit(package: Path) -> Iterator[Callable[[str, str, str], None]]:
    """Replaces text in a file of the copy; afterwards it is as it was."""
    changed: dict[Path, str] = {}

    def apply(name: str, old: str, new: str) -> None:
        path = package / name
        text = changed.setdefault(path, path.read_text())
        assert old in text, f"{name} has no {old!r} any more"
        path.write_text(text.replace(old, new, 1))

    yield apply
    for path, text in changed.items():
        path.write_text(text)


def with_loss(loss: str) -> Config:
    return load_config(None, [f"model.ctc.loss={loss}"])


ORDER = ("data/batches/index.py", "def plan_batches(", "def plan_batches(*, _: int = 0, ")


@pytest.mark.parametrize(
    ("name", "old", "new", "loss", "stages"),
    [
        ("data/batches/index.py", "def plan_batches(", "# another\ndef plan_batches(", "ctc", []),
        ("models/describe.py", '"""', '"""Other words. ', "ctc", []),
        ("lang/kneser_ney.py", '"""', '"""Other words. ', "lf_mmi", []),
        ("data/features/fbank.py", "LOW_HZ, HIGH_HZ = 20.0, -400.0", "(LOW_HZ, HIGH_HZ) = (\n    20.0,\n    -400.0,\n)", "ctc", []),
        ("data/features/fbank.py", "HIGH_HZ = 20.0", "HIGH_HZ = 30.0", "ctc", ["features", "train"]),
        # what only shows, logs or sizes
        ("models/describe.py", "return sum(", "return 1 + sum(", "ctc", []),
        ("training/sizing/plan.py", "return max(", "return 1 + max(", "ctc", []),
        # the order of batches, and LF-MMI's n-gram model
        (*ORDER, "ctc", ["train"]),
        ("lang/kneser_ney.py", "def train_token_ngram(", "def train_token_ngram(*, _=0, ", "ctc", []),
        (
            *("lang/kneser_ney.py", "def train_token_ngram(", "def train_token_ngram(*, _=0, "),
            *("lf_mmi", ["train", "decode"]),  # a head is one class
        ),
        # a function that one stage runs and its neighbours do not
        ("lang/prune.py", "def prune(", "def prune(*, _=0, ", "ctc", ["graph"]),
        ("scoring/score.py", "def count_errors(", "def count_errors(*, _=0, ", "ctc", ["decode"]),
        # its text rule is that of lm.text too
        ("corpora/mini.py", " = 0.44, 6.9", " = 0.45, 6.9", "ctc", NAMES[:4]),
        # the encoder and the head, and an encoder that is not chosen
        ("models/encoders/lmu.py", "options.expansion * ", "2 * options.expansion * ", "ctc", ["train", "decode"]),
        ("models/heads/ctc.py", "config.dim, ", "1 * config.dim, ", "ctc", ["train", "decode"]),
        ("models/encoders/lstm.py", "options.hidden or", "1 + options.hidden or", "ctc", []),
        # of another corpus, and of no stage
        ("corpora/an4.py", "name.strip()", "name", "ctc", []),
        ("stages/transcribe.py", "def main(", "def main(*, _=0, ", "ctc", []),
        # C++ by its content
        ("models/memory/kernels/legendre.cpp", "\n", "\n// a comment\n", "ctc", []),
        ("models/memory/kernels/legendre.cpp", "\n", "\nint edited;\n", "ctc", ["train", "decode"]),
    ],
)  # fmt: skip
def test_edits(
    name: str, old: str, new: str, loss: str, stages: Sequence[str],
    package: Path, before: dict[str, Any], edit: Callable[[str, str, str], None],
) -> None:  # fmt: skip
    edit(name, old, new)
    after = digests(package, with_loss(loss))
    assert [stage for stage in STAGES if after[stage] != before[loss][stage]] == list(stages)
