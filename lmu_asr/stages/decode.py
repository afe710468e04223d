"""Stage 5: decode and score dev and test; scales are chosen on dev and frozen for test."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from lmu_asr.config_files import save_config
from lmu_asr.remote import experiment_url, push_folder
from lmu_asr.stages.common import Context, Stage, program
from lmu_asr.stages.context import DECODED

PROJECT = Path(__file__).resolve().parents[2]


def run(context: Context) -> None:
    """Decode every split with every method of the configuration and score it."""
    from lmu_asr.decoding.decode import run_decoding

    run_decoding(
        context.config,
        context.exp_dir,
        context.features_dir,
        context.lang_dir,
        context.graph_dir,
        command=command_from_project(os.environ),
    )
    save_config(context.config, context.decode_dir / DECODED)
    if context.config.train.remote:
        url = experiment_url(context.config.train.remote, context.exp_dir)
        push_folder(context.decode_dir, f"{url}/{context.decode_dir.name}")


def command_from_project(environment: Mapping[str, str]) -> str:
    """Return the driver's command as it works in the project's directory; empty: there is no driver.

    Relative paths in it mean the directory that it was called from, so that one is gone to first.
    """
    command = environment.get("LMU_ASR_COMMAND", "")
    called = Path(environment.get("LMU_ASR_CALLER_DIR") or PROJECT).resolve()
    if not command or called == PROJECT:
        return command
    if called.is_relative_to(PROJECT):
        return f"cd {shlex.quote(str(called.relative_to(PROJECT)))} && {command}"
    home = Path(environment.get("HOME") or "/").resolve()
    if home != Path("/") and called.is_relative_to(home):  # tables are published, names are private
        return f"cd ~/{shlex.quote(str(called.relative_to(home)))} && {command}"
    return f"cd {shlex.quote(str(called))} && {command}"


def outputs(context: Context) -> Iterable[Path]:
    """Transcripts, errors, summaries and results."""
    return (context.decode_dir,)


STAGE = Stage(
    "decode",
    "decode and score dev and test",
    run,
    stamp_dir=lambda context: context.decode_dir,
    outputs=outputs,
    after=("features", "graph", "train"),
)

if __name__ == "__main__":
    sys.exit(program(STAGE))
