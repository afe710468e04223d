"""What a run will need, looked for before any compute: files, packages, GPUs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmu_asr.config import Config
from lmu_asr.config_files import option_value
from lmu_asr.config_paths import named_paths
from lmu_asr.errors import LmuAsrError
from lmu_asr.files import file_kind
from lmu_asr.remote import is_remote

# key: the stages that read the path, and whether it is a file, a directory or either
READ_BY = {
    "corpus.source": ((0, 1), "file or directory"),
    "corpus.download_dir": ((0,), "directory"),
    "lang.lexicon": ((2,), "file"),
    "lm.text": ((2, 3), "file"),
    "lm.arpa": ((2, 3), "file"),
    "augment.rir_dir": ((4,), "directory"),
    "augment.noise_dir": ((4,), "directory"),
    "train.shar": ((4,), "directory"),
    "train.init_from": ((4,), "file"),
    "train.deepspeed_config": ((4,), "file"),
}
UNNAMED = "corpus.source is empty: name your data with --data PATH"  # as stage 0 says
EXTRAS = "./utils/setup.sh --with-extras"
K2 = "./utils/setup.sh --with-k2"
S3 = "pip install -c utils/constraints.txt -r utils/requirements-s3.txt"
# key, the values that want the package, the package, the stages, how to get it
PACKAGES = (
    ("features.backend", ("kaldifeat",), "kaldifeat", (1,), "./utils/setup.sh --with-kaldifeat"),
    ("features.backend", ("torchaudio",), "torchaudio", (1,), "pip install torchaudio"),
    ("graph.fsa", ("k2",), "k2", (4, 5), K2),
    ("model.ctc.loss", ("k2_ctc", "graph_ctc"), "k2", (4,), K2),
    ("train.optimizer", ("adamw8bit",), "bitsandbytes", (4,), EXTRAS),
    ("train.strategy", ("deepspeed",), "deepspeed", (4,), EXTRAS),
    ("train.wandb", ("online", "offline"), "wandb", (4,), EXTRAS),
    ("model.lmu.memory_form", ("triton",), "triton", (4, 5), EXTRAS),
    ("model.lmu_parallel.memory_form", ("triton",), "triton", (4, 5), EXTRAS),
)
ON_S3: dict[str, tuple[int, ...]] = {
    "corpus.source": (0,),
    "train.shar": (4,),
    "train.remote": (4, 5),
}


def missing(config: Config, stages: range, launch: Sequence[str] = ()) -> list[str]:
    """Return a line for everything that the stages will want and that is not there.

    Args:
        stages: numbers of the stages that will run.
        launch: options of :mod:`lmu_asr.training.launch.start`; empty: they are not looked at.
    """
    found = [*_missing_paths(config, stages), *_missing_packages(config, stages)]
    if config.corpus.name == "own" and not config.corpus.source and {0, 1} & set(stages):
        found.append(UNNAMED)
    if launch and 4 in stages:
        found += _launch_error(launch)
    return found


def _missing_paths(config: Config, stages: range) -> Iterator[str]:
    for key, path in named_paths(config).items():
        numbers, kind = READ_BY.get(key, ((), ""))
        if key == "decode.checkpoint" and 5 in stages and 4 not in stages:
            numbers, kind = (5,), "file"  # stage 4 itself may be what makes it
        if set(numbers) & set(stages) and (fault := _fault(path, kind)):
            yield f"{path}: {fault} ({key})"


def _fault(path: Path, kind: str) -> str:
    """What is wrong with a path that should be a readable ``kind``; empty: nothing."""
    try:
        found = file_kind(path)
    except (OSError, ValueError) as error:
        return f"{getattr(error, 'strerror', None) or error}; want a {kind}"
    if found not in ("file", "directory") and "file" in kind:  # stages read it more than once
        return f"is a {found}, as <(...) makes; save what it gives as a file first, and name that"
    if found not in kind:
        return f"is {'a directory' if found == 'directory' else 'no directory'}; want a {kind}"
    return "" if os.access(path, os.R_OK) else "no permission to read it"


def _missing_packages(config: Config, stages: range) -> Iterator[str]:
    for key, values, package, users, remedy in PACKAGES:
        value = option_value(config, key)
        if value in values and set(users) & set(stages) and not _installed(package):
            yield f"{key}={value}: {package} is not installed: {remedy}"
    for key, numbers in ON_S3.items():
        value = option_value(config, key)
        if is_remote(value) and set(numbers) & set(stages) and not _installed("boto3"):
            yield f"{key}={value}: boto3 is not installed: {S3}"


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _launch_error(launch: Sequence[str]) -> list[str]:
    from lmu_asr.training.launch.start import parse

    try:
        parse([*launch, "-m", "lmu_asr.stages.train"])
    except LmuAsrError as error:
        return [str(error)]
    return []
