"""The run of one process: joins the others, prepares, trains, and leaves when a signal asks."""

from __future__ import annotations

import sys
from pathlib import Path

from lmu_asr.config import Config
from lmu_asr.files import fingerprint
from lmu_asr.lang.lang import Lang
from lmu_asr.text_lines import read_transcripts
from lmu_asr.training.distributed import log_main
from lmu_asr.training.interrupt import RunStoppedError, mark_stopped, resume_command
from lmu_asr.training.joining import joined_world
from lmu_asr.training.setup import describe, make_model, prepare_process, synchronize_batchnorm
from lmu_asr.training.sizing import Sizing
from lmu_asr.training.source import LoaderSource
from lmu_asr.training.state import Identity, shaping_options
from lmu_asr.training.trainer import Trainer


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

    SIGTERM and SIGUSR1 save the state, print how to go on and leave with exit status 0, by
    SystemExit. A finished run returns at once.

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
    with joined_world(minutes=config.train.join_minutes) as world:
        prepare_process(config, world)
        lang = training_lang(lang_dir, Path(data_dir) / f"{config.corpus.train}_text")
        tokens = fingerprint([lang.unit, lang.tokens])
        model = make_model(config, data_dir, lang.vocab_size, tokens)
        if config.train.sync_batchnorm:
            model = synchronize_batchnorm(model, world)
        record = Path(exp_dir) / "dropped.jsonl"
        source = LoaderSource(config, data_dir, lang, model.output_lens, world, record)
        identity = Identity(source.manifest_fingerprint(), tokens, shaping_options(config))
        describe(config, model, world)
        sizing = Sizing(config, source, exp_dir, world)
        trainer = Trainer(config, model, source, lang, identity, exp_dir, world, sizing)
        try:
            trainer.run()
        except RunStoppedError as stopped:
            log_main(world, "%s. To go on:\n  %s", stopped, resume_command())
            if world.local_rank == 0:
                mark_stopped()
            sys.exit(0)
