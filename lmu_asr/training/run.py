"""The run of one process: joins the others, prepares, trains, and leaves when a signal asks."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from lmu_asr.checkpoints.identity import Identity, shaping_options
from lmu_asr.config import Config
from lmu_asr.errors import LmuAsrError
from lmu_asr.files import fingerprint
from lmu_asr.lang.lang import Lang
from lmu_asr.text_lines import read_transcripts
from lmu_asr.training.launch.signals import (
    STOP_FILE,
    RunStoppedError,
    StopUnsavedError,
    check_stop,
    leave_before_training,
    mark_stopped,
    resume_command,
    stop_asked,
)
from lmu_asr.training.loop.setup import describe, make_model, prepare_process, synchronize_batchnorm
from lmu_asr.training.loop.source import LoaderSource
from lmu_asr.training.loop.trainer import Trainer
from lmu_asr.training.parallel.joining import joined_world
from lmu_asr.training.parallel.processes import World, env_number
from lmu_asr.training.sizing.sizing import Sizing


def training_lang(lang_dir: Path, transcripts: Path) -> Lang:
    """Load the lang directory as training sees it: its tokens, and the words of its transcripts.

    Under phones a larger lexicon can also spell words of the development split. Validation would
    then choose another checkpoint, so training does not see them.

    Raises:
        DataError, LangError: transcripts or lang directory are missing or damaged.
    """
    lang = Lang.load(lang_dir)
    if lang.unit != "phone":
        return lang
    return lang.limited_to({w for text in read_transcripts(transcripts) for w in text.split()})


def run_training(config: Config, exp_dir: Path, data_dir: Path, lang_dir: Path) -> None:
    """Train, or go on with training, in every process of whatever launcher started this one.

    Asked to stop, it saves the state and leaves with exit status 0, by SystemExit. A finished run
    returns at once.

    Args:
        config: the resolved configuration.
        exp_dir: ``checkpoint-<step>.pt best.pt last.pt averaged.pt metrics.jsonl train.png
            training.json tensorboard/`` go here, written by rank 0.
        data_dir: prepared data: ``<split>_cuts.jsonl.gz`` of both splits, and ``cmvn.json``.
        lang_dir: lang directory.

    Raises:
        DataError, LangError, ModelError: an input is missing or does not fit.
        CheckpointError: ``exp_dir`` holds a run of other data, tokens or configuration.
        TrainingError: training cannot go on.
    """
    leave_before_training()
    try:
        check_stop()
        with joined_world(minutes=config.train.join_minutes) as world:
            check_stop()  # waiting for the others may have taken minutes
            _make_trainer(config, exp_dir, data_dir, lang_dir, world).run()
    except RunStoppedError as stopped:
        _leave(str(stopped))
    except StopUnsavedError:
        raise
    except LmuAsrError as error:
        if not stop_asked():
            raise
        _leave(f"asked to stop ({error})")  # another process has left first


def _make_trainer(
    config: Config, exp_dir: Path, data_dir: Path, lang_dir: Path, world: World
) -> Trainer:
    prepare_process(config, world)
    lang = training_lang(lang_dir, Path(data_dir) / f"{config.corpus.train}_text")
    tokens = fingerprint([lang.unit, lang.tokens])
    model = make_model(config, data_dir, lang.vocab_size, tokens)
    if config.train.sync_batchnorm:
        model = synchronize_batchnorm(model, world)
    record = Path(exp_dir) / "dropped.jsonl"
    source = LoaderSource(config, data_dir, lang, model, world, record)
    model.head.prepare(config, lang, source.transcripts())
    shape = shaping_options(config) | model.head.references
    identity = Identity(source.manifest_fingerprint(), tokens, shape)
    describe(config, model, world)
    check_stop()
    sizing = Sizing(config, source, exp_dir, world)
    return Trainer(config, model, source, lang, identity, exp_dir, world, sizing)


def _leave(message: str) -> NoReturn:
    """Say where the run stands; leave with success, so that no launcher starts this process again."""
    mark_stopped()
    if env_number("RANK", 0) == 0:
        how = "" if STOP_FILE in os.environ else f". To go on:\n  {resume_command()}"
        logging.info("%s%s", message, how)  # a guard says itself how to go on
    sys.exit(0)
