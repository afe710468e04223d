"""The real model on the tiny data, as one process of any launcher:
``python -m tests.training.tiny_run PREPARED EXP_DIR [key=value ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from lmu_asr.progress import setup_logging
from lmu_asr.training.loop import finish
from lmu_asr.training.run import run_training
from tests.training.tiny_data import tiny_config


def main(argv: list[str]) -> None:
    """Train; no picture is drawn."""
    setup_logging()
    torch.set_num_threads(1)
    finish.plot_training = lambda *_: None
    prepared, exp_dir, *options = argv
    root = Path(prepared)
    run_training(tiny_config(*options), Path(exp_dir), root / "data", root / "lang")


if __name__ == "__main__":
    main(sys.argv[1:])
