"""Where metrics go besides ``metrics.jsonl``: TensorBoard events, and Weights and Biases."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lmu_asr.config import Config
from lmu_asr.config_files import config_to_dict
from lmu_asr.errors import ConfigError, TrainingError
from lmu_asr.files import atomic_write_text

CHANGES_NO_OUTPUT = True

RUN_ID = "wandb-id.txt"


class Tracker(Protocol):
    """Takes the numbers of each row of metrics."""

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers by name (``train/loss``) of a step."""

    def close(self) -> None:
        """Write what is left."""


def open_trackers(config: Config, directory: Path, rows: Sequence[dict[str, Any]]) -> list[Tracker]:
    """Open what ``train.tensorboard`` and ``train.wandb`` ask for.

    Args:
        config: the resolved configuration.
        directory: the experiment directory; events go below it.
        rows: history that the run goes on from.

    Raises:
        ConfigError: the package ``wandb`` is not installed.
        TrainingError: Weights and Biases does not start, as without a login.
    """
    trackers: list[Tracker | None] = []
    if config.train.tensorboard:
        trackers.append(open_tensorboard(directory, rows))
    if config.train.wandb != "off":
        trackers.append(WandbRun(config, directory))
    return [tracker for tracker in trackers if tracker is not None]


def open_tensorboard(directory: Path, rows: Sequence[dict[str, Any]]) -> Tracker | None:
    """Events below ``directory/tensorboard``; those after the history are taken as never written."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        logging.warning("no TensorBoard events: %s; metrics.jsonl has everything", error)
        return None
    # what a killed run wrote after its last checkpoint is written again, so TensorBoard drops it
    step = rows[-1]["step"] + 1 if rows else 0
    return TensorBoard(
        SummaryWriter(str(directory / "tensorboard"), purge_step=step, flush_secs=30)
    )


class TensorBoard:
    """A writer of TensorBoard events as a tracker."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers by name of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbRun:
    """A run of Weights and Biases, the same one each time that training goes on.

    Its id lies in ``wandb-id.txt`` of the experiment; what is written offline goes up with
    ``wandb sync``. Host name, source code and repository are not recorded.

    Args:
        config: the resolved configuration; ``train.wandb`` is ``offline`` or ``online``.
        directory: the experiment directory.

    Raises:
        ConfigError: the package ``wandb`` is not installed.
        TrainingError: it does not start, as without a login.
    """

    def __init__(self, config: Config, directory: Path) -> None:
        self._wandb = _import_wandb(config.train.wandb)
        settings = self._wandb.Settings(
            mode=config.train.wandb,
            host="-",
            console="off",
            silent=config.train.wandb == "offline",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._run = self._wandb.init(
                project=config.train.wandb_project,
                name=f"{config.corpus.id or config.corpus.name}-{config.variant}",
                id=_run_id(directory),
                resume="allow",
                dir=str(directory),
                config=config_to_dict(config),
                settings=settings,
            )
        except self._wandb.Error as error:
            raise TrainingError(
                f"Weights and Biases does not start: {error}: run `wandb login`, or set "
                "train.wandb=offline"
            ) from error

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers by name of a step; trouble with the service is said and stops nothing."""
        try:
            self._run.log(dict(values), step=step)
        except self._wandb.Error as error:
            logging.warning("Weights and Biases: %s; metrics.jsonl has everything", error)

    def close(self) -> None:
        """Write what is left."""
        with contextlib.suppress(self._wandb.Error):
            self._run.finish()


def _import_wandb(mode: str) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"train.wandb={mode} needs the package wandb ({error}): ./utils/setup.sh --with-extras"
        ) from error
    return wandb


def _run_id(directory: Path) -> str:
    path = directory / RUN_ID
    if not path.is_file():
        atomic_write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()
