"""The plan of a run, read or measured, and applied in step in all processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from lmu_asr.config import Config
from lmu_asr.data.batches.lengths import Lengths
from lmu_asr.files import fingerprint
from lmu_asr.lang.lang import Lang
from lmu_asr.training.loop.finetune import freeze
from lmu_asr.training.loop.precision import dtype_of
from lmu_asr.training.loop.setup import choose_precision, make_model, prepare_process
from lmu_asr.training.loop.source import LoaderSource
from lmu_asr.training.loop.step import GradientStep
from lmu_asr.training.parallel.processes import World, log_main
from lmu_asr.training.sizing.autoconf import describe_model, make_plan, set_checkpointing
from lmu_asr.training.sizing.plan import Plan, plan_keys
from lmu_asr.training.sizing.profile import can_measure, free_bytes, profile_machine, profile_speech


class Source(Protocol):
    """The training data."""

    def lengths(self) -> Lengths:
        """Frames and tokens of the training utterances."""

    def seconds_to_load(self) -> float | None:
        """Seconds to make one batch of this process; None where that is not measured."""

    def bytes_to_come(self) -> int:
        """Memory that this process will still take for data."""

    def use_workers(self, count: int) -> None:
        """Set the number of loader processes."""


class Sizing:
    """Applies the plan of a run: read where it holds, else measured and written.

    Args:
        config: the resolved configuration; its options override what is measured.
        source: the training data.
        exp_dir: where rank 0 keeps ``autoconf.yaml``.
        world: the processes of the run.
        fresh: measure even where a plan is there.
    """

    def __init__(
        self, config: Config, source: Source, exp_dir: Path, world: World, fresh: bool = False
    ) -> None:
        self.config, self.source, self.world, self.fresh = config, source, world, fresh
        self.path = Path(exp_dir) / "autoconf.yaml"

    def __call__(self, step: GradientStep) -> Plan | None:
        """Set how ``step`` computes batches, the same in every process; None: nothing is planned."""
        hand = self.config.train.frame_limit
        if hand:
            # no utterance is as short as 0 frames, and the last limit serves all that are longer
            step.limits = [(0, hand)]
        why_not = self._why_not(step)
        if why_not is not None:
            log_main(self.world, "batches are not sized by measurement: %s", why_not)
            return None
        plan = self._plan(step)
        if not hand:
            step.limits = plan.limits
        step.precision = dtype_of(plan.precision["used"])
        if plan.grad_checkpoint["used"]:
            set_checkpointing(step.model, True)
        self.source.use_workers(int(plan.loading["workers"]))
        return plan

    def _why_not(self, step: GradientStep) -> str | None:
        if not self.config.train.autoconf:
            return "train.autoconf=false"
        if step.together:
            return "the model lies in shards; train.frame_limit sets the size of chunks"
        if not can_measure(self.world.device):
            return f"torch {torch.__version__} does not tell when memory of a CPU is freed"
        return step.head.unmeasured or None

    def _plan(self, step: GradientStep) -> Plan:
        speech = profile_speech(self.source.lengths())
        keys = plan_keys(
            self.config,
            profile_machine(self.world.device),
            describe_model(step),
            speech,
            self.world.world_size,
        )
        # rank 0 reads for all: measuring is a collective, so all must measure or none
        known = Plan.load(self.path, keys) if self.world.is_main and not self.fresh else None
        plan: Plan | None = self.world.broadcast(known)
        if plan is not None:
            log_main(self.world, "batches are computed as %s says", self.path)
            return plan
        loading = self.source.seconds_to_load()
        world, most = self.world, self.config.train.memory_mib
        free = free_bytes(world.device, world.local_world_size, most)
        if world.device.type == "cpu":
            # features kept in memory are read later, and must still find room
            free -= self.source.bytes_to_come()
        plan = common_plan(self.world.gather(make_plan(self.config, step, speech, free, loading)))
        if self.world.is_main:
            plan.save(self.path)
            for line in plan.summary():
                logging.info("%s", line)
        return plan


def common_plan(plans: Sequence[Plan]) -> Plan:
    """What every process can do: the smallest micro-batches, and recomputation if one needs it."""
    chosen = next((plan for plan in plans if plan.grad_checkpoint["used"]), plans[0])
    # micro-batches with and without recomputation are sized by different memory
    alike = [
        plan for plan in plans if plan.grad_checkpoint["used"] == chosen.grad_checkpoint["used"]
    ]
    buckets = [
        min(same, key=lambda bucket: bucket.micro_rows)
        for same in zip(*(plan.buckets for plan in alike), strict=True)
    ]
    return replace(chosen, buckets=tuple(buckets), precision=plans[0].precision)


def measure(
    config: Config, exp_dir: Path, data_dir: Path, lang_dir: Path, world: World, fresh: bool = False
) -> Plan | None:
    """Plan the training of a configuration as training would, without training.

    Args:
        config: the resolved configuration.
        exp_dir: ``autoconf.yaml`` goes here.
        data_dir, lang_dir: prepared data and lang directory.
        world: the processes, which would train.
        fresh: measure even where a plan is there.

    Returns:
        The plan; None, with a log line that says why, where nothing is measured.

    Raises:
        DataError, LangError, ModelError: an input is missing or does not fit.
        TrainingError: one utterance alone does not fit.
    """
    prepare_process(config, world)
    lang = Lang.load(lang_dir)
    tokens = fingerprint([lang.unit, lang.tokens])
    model = make_model(config, data_dir, lang.vocab_size, tokens).to(world.device).train()
    freeze(model, config.train.freeze)
    source = LoaderSource(config, data_dir, lang, model, world)
    model.head.prepare(config, lang, source.transcripts())
    precision = choose_precision(config.train.precision, world)
    step = GradientStep(model, world, precision, lambda: None)
    return Sizing(config, source, exp_dir, world, fresh)(step)
