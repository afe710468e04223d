"""The trainer: one loop for every model and launcher, that goes on exactly where it was stopped.

Everything random in a step derives from the seed, the step and the rank (augmentation: from the
seed, the epoch and the utterance), so a resumed run repeats what an undisturbed one does, bit for
bit on a CPU. A position is a count of global batches of an epoch, the same for any number of
processes.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from lmu_asr.checkpoints.checkpoint import Checkpoint
from lmu_asr.checkpoints.identity import Identity
from lmu_asr.checkpoints.mirror import open_store
from lmu_asr.config import Config
from lmu_asr.errors import TrainingError
from lmu_asr.host_memory import host_memory
from lmu_asr.lock import sole_run
from lmu_asr.models.head import Head, Tokens
from lmu_asr.training.launch.signals import (
    RunStoppedError,
    StopAskedError,
    StopRequest,
    StopUnsavedError,
    mark_stopped,
)
from lmu_asr.training.loop.evaluation import DevResult, evaluate
from lmu_asr.training.loop.finetune import freeze
from lmu_asr.training.loop.finish import average_epochs, keep_epoch, write_summary
from lmu_asr.training.loop.metrics import MetricsLog
from lmu_asr.training.loop.monitor import (
    LOW_MEMORY,
    Clock,
    Display,
    Stopwatch,
    dev_line,
    skip_line,
    window_metrics,
)
from lmu_asr.training.loop.optim import (
    LossScale,
    RunningAverage,
    bad_gradients,
    learning_rate,
    set_learning_rate,
    swapped_weights,
)
from lmu_asr.training.loop.setup import choose_precision
from lmu_asr.training.loop.snapshot import collect, restore, restore_rank
from lmu_asr.training.loop.state import (
    EpochRecord,
    RunState,
    Window,
    environment,
    random_states,
    seed_everything,
)
from lmu_asr.training.loop.step import GradientStep, StepSums, TrainBatch, TrainSource
from lmu_asr.training.loop.trackers import open_trackers
from lmu_asr.training.parallel.choose import choose_strategy
from lmu_asr.training.parallel.processes import World, log_main
from lmu_asr.training.parallel.whole import whole

MAX_SKIPPED_IN_A_ROW = 50


class Trainer:
    """Trains a model; :meth:`run` is restore, epochs, finish.

    Args:
        config: the resolved configuration.
        model: on the CPU, the same weights in every process, its head prepared.
        source: training and development batches.
        lang: tokens and tokenizer.
        identity: what checkpoints of this run must agree with.
        exp_dir: where rank 0 writes.
        world: the processes of the run.
        sizing: sets, before the first step, how batches are computed on this machine.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        source: TrainSource,
        lang: Tokens,
        identity: Identity,
        exp_dir: Path,
        world: World,
        sizing: Callable[[GradientStep], object] | None = None,
    ) -> None:
        self.sizing = sizing
        self.config, self.source, self.lang = config, source, lang
        self.identity, self.exp_dir, self.world = identity, Path(exp_dir), world
        self.options = config.train
        self.precision = choose_precision(config.train.precision, world)
        self.head = cast(Head, model.head)
        # before gradients and optimiser are made, which take trained parameters alone
        freeze(model, config.train.freeze)
        strategy = choose_strategy(config, world)
        self.model = strategy.place(model, world).train()
        self.optimizer = strategy.optimizer(self.model, config.train)
        self.gradients = strategy.step(self.model, world, self.precision, self._seed_step)
        self.gradients.bins = config.features.num_mel_bins
        fp16 = self.precision is torch.float16
        self.scale = LossScale(2.0**16, 0, True) if fp16 else LossScale()
        ema = config.train.ema
        self.average = RunningAverage(self.model, ema) if ema > 0 else None
        self.state = RunState()
        self.store = open_store(self.exp_dir, config.train.keep_last, config.train.remote, identity)
        self.stop = StopRequest()
        self.watch = Stopwatch()
        self._clock, self._saved_at = Clock(), time.monotonic()

    def run(self) -> None:
        """Train to the end, or from where the last run stopped to the end.

        Raises:
            RunStoppedError: it was asked to stop; the state is saved.
            CheckpointError: the directory holds a run of other data, tokens or configuration.
            TrainingError: no loss is finite any more, one utterance does not fit in memory, or
                another process trains in the same directory.
        """
        with ExitStack() as stack:
            if self.world.is_main:
                # entered first, so left last: the lock outlives the store's last write
                stack.enter_context(sole_run(self.exp_dir))
            self._run(stack)

    def _run(self, stack: ExitStack) -> None:
        rows = self._restore()
        if self.state.finished:
            log_main(self.world, "%s: training has finished already", self.exp_dir)
            # a kill between the last checkpoint and the summary may have left it out
            if self.world.is_main and not (self.exp_dir / "training.json").is_file():
                write_summary(self.exp_dir, self.config, self.model, self.state, rows, self.world)
            self.store.wait()
            return
        stack.enter_context(self.stop.listening())
        main = self.world.is_main
        trackers = open_trackers(self.config, self.exp_dir, rows) if main else ()
        self.metrics = MetricsLog(self.exp_dir, rows, trackers, main)
        stack.callback(self.metrics.close)
        stack.callback(self.store.wait)
        try:
            self._train()
            self._finish()
        except StopAskedError:
            self._leave()

    def _train(self) -> None:
        # of the first epoch and kept in checkpoints, so that a resumed schedule stays what it was
        if not self.state.steps_per_epoch:
            count = self.source.count_batches(self.state.epoch)
            self.state.steps_per_epoch = max(1, -(-count // self.options.accumulate))
        if self.sizing:
            with self.watch.paused():
                self.sizing(self.gradients)
        total = self.options.epochs * self.state.steps_per_epoch
        self.total_steps = min(total, self.options.max_steps or total)
        self.display = Display(self.world.is_main, self.state.step, self.total_steps)
        try:
            while not self._is_done():
                self._run_epoch()
                self._end_epoch()
        finally:
            self.display.close()

    def _run_epoch(self) -> None:
        """Take the steps that are left of the current epoch."""
        batches = self.source.train_batches(self.state.epoch, self.state.batch)
        waiting = self.watch.waiting(batches)
        while not self._is_out_of_steps():
            group = list(itertools.islice(waiting, self.options.accumulate))
            if not group:
                break
            sums = self._step(group)
            self._after_step(sums)

    def _step(self, group: list[TrainBatch]) -> StepSums:
        """One optimiser step."""
        state = self.state
        # skipped steps count too, so that no step's random numbers are drawn twice
        state.step += 1
        set_learning_rate(self.optimizer, self._learning_rate())
        self.head.begin_step(state.step)
        sums = self.gradients.run(group, self.scale.scale, self._is_save_due(), self.stop.asked)
        # every process hears it in the same sum, so all leave and none waits for the others
        if sums.hopeless:
            raise TrainingError(
                f"step {state.step}: memory does not hold one utterance at a time: lower "
                "features.max_duration, or set model.grad_checkpoint=true"
            )
        divisor = self.scale.scale * max(sums.frames, 1.0)
        norm = self.gradients.flat.finish(divisor, self.options.clip_norm)
        # the sums are the same in every process, so all update or none does
        if sums.bad == 0 and math.isfinite(norm) and sums.frames > 0:
            self.optimizer.step()
            state.updates += 1
            state.skipped_in_a_row = 0
            if self.average:
                self.average.update(self.model, state.updates)
            self._account(sums, norm)
        else:
            self._skip(sums, norm)
        # an undefined loss is the data's fault: a smaller loss scale would not cure it
        self.scale.update(overflow=sums.bad == 0 and not math.isfinite(norm))
        state.batch += len(group)
        return sums

    def _seed_step(self) -> None:
        seed_everything(self.config.seed, "step", self.state.step, self.world.rank)

    def _learning_rate(self) -> float:
        state = self.state
        return learning_rate(state.step, self.total_steps, self.options, state.steps_per_epoch)

    def _account(self, sums: StepSums, norm: float) -> None:
        window = self.state.window
        window.loss += sums.loss
        window.frames += sums.frames
        window.grad_norm += norm
        window.steps += 1
        window.seconds += sums.seconds
        window.real_frames += sums.real_frames
        window.padded_frames += sums.padded_frames
        self.state.audio_seconds += sums.seconds

    def _skip(self, sums: StepSums, norm: float) -> None:
        """Leave the weights as they are, and write out whose fault it was."""
        state = self.state
        state.skipped += 1
        state.skipped_in_a_row += 1
        if self.scale.dynamic and sums.bad == 0 and self.scale.scale > 1.0:
            return  # an overflow of float16, which the loss scale cures
        local = self.gradients.bad_utterances()
        local = local or [(name, math.nan) for name in self.gradients.utterances()]
        names = sorted(name for part in self.world.gather(local) for name, _ in part)
        reason = "infinite or undefined loss" if sums.bad else "infinite or undefined gradient"
        bad = bad_gradients(self.model)
        logging.warning("step %d skipped: %s", state.step, skip_line(reason, norm, names, bad))
        row = {"reason": reason, "utterances": names, "parameters": bad}
        self.metrics.add("skipped", state.step, state.epoch + 1, **row)
        if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"step {state.step}: {state.skipped_in_a_row} steps in a row without a finite loss "
                f"and gradient: lower train.lr (now {self.options.lr}); last: {reason}, "
                f"utterance {names[0] if names else '-'}"
            )

    def _after_step(self, sums: StepSums) -> None:
        state = self.state
        self.display.advance()
        if sums.out_of_memory:
            state.out_of_memory += int(sums.out_of_memory)
            self.metrics.add("memory", state.step, state.epoch + 1, retries=sums.out_of_memory)
        if state.step % self.options.log_every == 0:
            self._log()
        # after a whole step, so that what is saved is a point of the undisturbed run too
        if sums.stop:
            raise StopAskedError
        if sums.save or state.step % self.options.checkpoint_every == 0:
            self.save()
        self.store.retry()

    def _log(self) -> None:
        state = self.state
        seconds, waited = self.watch.read()
        metrics = window_metrics(state.window, seconds, waited, self.world.device)
        metrics["lr"] = self._learning_rate()
        self.metrics.add("train", state.step, state.epoch + 1, **metrics)
        self.display.report(state.epoch + 1, state.step, metrics)
        state.window = Window()

    def _end_epoch(self) -> None:
        """Validate, note the epoch, save."""
        state, last = self.state, self._is_last_epoch()
        best = False
        if last or (state.epoch + 1) % self.options.validate_every == 0:
            best = self._note_validation(self._validate())
        # only now: a run stopped during validation validates again when it goes on
        state.epoch, state.batch = state.epoch + 1, 0
        self._tick()
        log_main(self.world, "epoch %d: %.1f s", state.epoch, state.epoch_seconds)
        state.epoch_seconds = 0.0
        self.save(best)

    def _validate(self) -> DevResult:
        """Loss and error rate of the development split with the weights that decoding would take."""
        with ExitStack() as stack:
            stack.enter_context(self.watch.paused())
            if self.average:
                stack.enter_context(swapped_weights(self.model, self.average.weights))
            return self._evaluate()

    def _evaluate(self) -> DevResult:
        return evaluate(
            self.model,
            self.source.dev_batches(),
            self.lang,
            self.world,
            self.gradients.precision,
            self._heartbeat,
            self.gradients.together,
        )

    def _heartbeat(self) -> None:
        if self.world.any(self.stop.asked):
            raise StopAskedError

    def _note_validation(self, result: DevResult) -> bool:
        """Record a validation; returns whether it is the best so far."""
        state = self.state
        self._tick()
        figures = state.epoch, state.step, result.wer, result.loss, state.epoch_seconds
        record = EpochRecord(*figures, by_loss=self.head.by_loss)
        nothing = math.inf, math.inf
        best = record.rank() < min((e.rank() for e in state.epochs), default=nothing)
        state.epochs.append(record)
        if best:
            state.best_wer, state.best_loss = result.wer, result.loss
            state.best_epoch = state.epoch
        state.bad_validations = 0 if best else state.bad_validations + 1
        self.metrics.add("dev", state.step, state.epoch + 1, loss=result.loss, wer=result.wer)
        line = dev_line(state.epoch + 1, self.lang.unit, result.loss, result.wer, best)
        log_main(self.world, "%s", line)
        if self.options.average > 1:
            weights = self.average.weights if self.average else self.model.state_dict()
            # a collective where weights are sharded, so every process calls it
            weights = whole(weights, self.world.is_main)
        if self.world.is_main and self.options.average > 1:
            keep_epoch(self.store, weights, state.epochs, self.options.average)
        return best

    def save(self, best: bool = False) -> None:
        """Save everything, in step in all processes; rank 0 writes in the background."""
        self._tick()
        self.state.loss_scale = self.scale.scale
        self.state.loss_scale_good_steps = self.scale.good_steps
        limit = self.gradients.frame_limit or 0
        ranks = self.world.gather(
            {"random": random_states(self.world.device), "frame_limit": limit}
        )
        self._saved_at = time.monotonic()
        tensors = collect(self.model, self.optimizer, self.average, ranks, self.world)
        if self.world.is_main:
            self.store.save(self.state.step, tensors, self._meta(), best)

    def _meta(self) -> dict[str, Any]:
        return {
            "state": self.state.to_json(),
            "identity": self.identity.to_json(),
            "world_size": self.world.world_size,
            "metrics": self.metrics.rows,
            "environment": environment(),
        }

    def _finish(self) -> None:
        """Average the best epochs, write the summary, mark the run as finished."""
        # weights of epochs to average may still be on their way to disk
        self.store.wait()
        weights = self.world.broadcast(
            average_epochs(
                self.store, self.state.epochs, self.options.average, self.identity.to_json()
            )
            if self.world.is_main
            else None
        )
        with swapped_weights(self.model, weights):
            result = self._evaluate()
        state = self.state
        self.metrics.add("final", state.step, state.epoch, loss=result.loss, wer=result.wer)
        log_main(self.world, "averaged: dev error rate %.2f %%", 100 * result.wer)
        state.finished = True
        self.save()
        if self.world.is_main:
            if not self.store.wait():
                raise TrainingError(f"{self.exp_dir}: the last checkpoint could not be written")
            write_summary(
                self.exp_dir, self.config, self.model, state, self.metrics.rows, self.world
            )
        self.world.barrier()

    def _leave(self) -> None:
        self.save()
        if not self.store.wait():
            raise StopUnsavedError(
                f"{self.exp_dir}: asked to stop, but the state could not be saved"
            )
        mark_stopped()
        raise RunStoppedError(
            f"saved at epoch {self.state.epoch}, batch {self.state.batch}, step {self.state.step}"
        )

    def _restore(self) -> list[dict[str, Any]]:
        """Set everything from the newest whole checkpoint; returns the metrics history."""
        found = None
        if self.world.is_main:
            self.store.clean()
            found = self.store.latest_good()
        # rank 0 reads for all: none may take another checkpoint than the rest
        checkpoint: Checkpoint | None = self.world.broadcast(found)
        if checkpoint is None:
            return []
        meta = checkpoint.meta
        self.identity.check(meta.get("identity", {}), str(checkpoint.path))
        self.state = RunState.from_json(meta.get("state", {}))
        restore(checkpoint, self.model, self.optimizer, self.average)
        self.scale.scale = self.state.loss_scale
        self.scale.good_steps = self.state.loss_scale_good_steps
        self.gradients.frame_limit = restore_rank(checkpoint, self.world)
        if self.world.is_main:
            # a damaged file of a later step would push new checkpoints out of train.keep_last
            self.store.discard_after(self.state.step)
            # a kill between writing a checkpoint and linking it leaves last.pt one behind
            self.store.relink(self.state.step, self._is_best_step())
        if not self.state.finished:
            log_main(
                self.world,
                "going on from %s: epoch %d, batch %d, step %d",
                checkpoint.path,
                self.state.epoch,
                self.state.batch,
                self.state.step,
            )
        return list(meta.get("metrics", []))

    def _is_best_step(self) -> bool:
        """Whether the restored state is the best epoch's end, whose links a kill may have left out."""
        state = self.state
        if state.finished or not state.epochs:
            return False
        return state.epochs[-1].epoch == state.best_epoch and state.epochs[-1].step == state.step

    def _tick(self) -> None:
        """Bring wall time and CPU time up to now."""
        wall, cpu = self._clock.tick()
        self.state.wall_seconds += wall
        self.state.epoch_seconds += wall
        self.state.cpu_seconds += cpu

    def _is_save_due(self) -> bool:
        if not self.world.is_main:
            return False
        since = time.monotonic() - self._saved_at
        memory = host_memory()
        # 30 s, so that a host short of memory does not save at every step
        if since > 30.0 and memory.available < LOW_MEMORY * memory.total:
            logging.warning("host memory is nearly used up: saving now; lower train.num_workers")
            return True
        return since > 60.0 * self.options.checkpoint_minutes

    def _is_out_of_steps(self) -> bool:
        return 0 < self.options.max_steps <= self.state.step

    def _is_last_epoch(self) -> bool:
        return self.state.epoch + 1 >= self.options.epochs or self._is_out_of_steps()

    def _is_done(self) -> bool:
        """Whether the current epoch is past the last one, or patience has run out."""
        state = self.state
        if state.epoch >= self.options.epochs:
            return True
        # with batches taken, the end of the epoch (validation, saving) is still to come
        if state.batch == 0 and self._is_out_of_steps():
            return True
        if 0 < self.options.patience <= state.bad_validations:
            log_main(
                self.world,
                "stopping early: %d validations without a lower error rate",
                state.bad_validations,
            )
            return True
        return False
