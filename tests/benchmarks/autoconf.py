"""What sizing by measurement gives: predicted against measured memory, padding, and speed.

The comparison is a fixed number of utterances in a batch, as many as fit when all are as long as
the longest, drawn at random. Both train the same model with the same optimiser in the same memory.

Run by hand after stage 2:
python -m tests.benchmarks.autoconf CONFIG DATA_DIR LANG_DIR [memory in MiB] [seconds] [key=value ...]
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from lmu_asr.config import Config
from lmu_asr.config_files import load_config
from lmu_asr.data.batches.loaders import Loader
from lmu_asr.lang.lang import Lang
from lmu_asr.training.loop.optim import build_optimizer
from lmu_asr.training.loop.setup import make_model, prepare_process
from lmu_asr.training.loop.source import LoaderSource
from lmu_asr.training.loop.step import GradientStep, TrainBatch
from lmu_asr.training.parallel.processes import current_world
from lmu_asr.training.sizing.autoconf import SHARE, Planner, describe_model
from lmu_asr.training.sizing.plan import BucketPlan, Plan
from lmu_asr.training.sizing.probe import Probe, Prober
from lmu_asr.training.sizing.profile import (
    MIB,
    Bucket,
    forget_resident_peak,
    profile_speech,
    resident_bytes,
)
from lmu_asr.training.sizing.sizing import Sizing

STEPS = 3  # of each length, whose largest peak is compared with the predicted one


class Run:
    """A model, its optimiser and its data, ready to train."""

    def __init__(self, config: Config, data_dir: Path, lang_dir: Path) -> None:
        world = current_world(prefer_gpu=False)
        prepare_process(config, world)
        lang = Lang.load(lang_dir)
        self.config = config
        self.model = make_model(config, data_dir, lang.vocab_size, "").train()
        self.source = LoaderSource(config, data_dir, lang, self.model, world)
        self.model.head.prepare(config, lang, self.source.transcripts())
        self.step = GradientStep(self.model, world, None, lambda: None)
        self.optimizer = build_optimizer(self.model, config.train)

    def speed(self, batches: Iterable[TrainBatch], seconds: float) -> dict[str, float]:
        """Train for some seconds after two steps that do not count; returns the figures."""
        spent = audio = real = padded = steps = 0.0
        forget_resident_peak()
        start = time.perf_counter()
        for number, batch in enumerate(batches):
            sums = self.step.run([batch], 1.0)
            self.step.flat.finish(sums.frames, self.config.train.clip_norm)
            self.optimizer.step()
            now = time.perf_counter()
            if number >= 2:
                spent, audio, steps = spent + now - start, audio + sums.seconds, steps + 1
                real, padded = real + sums.real_frames, padded + sums.padded_frames
            start = now
            if spent > seconds:
                break
        return {
            "padding": 1.0 - real / padded,
            "audio_hours_per_hour": audio / spent,
            "seconds_a_step": spent / steps,
            "process_mib": (resident_bytes(peak=True) or 0) / MIB,
        }

    def fixed_batches(self, rows: int) -> Iterator[TrainBatch]:
        """Batches of ``rows`` utterances drawn at random, epoch after epoch."""
        utterances = list(self.source._loader(0, 0).batches.utterances)
        dataset = self.source._loader(0, 0).dataset
        for epoch in range(1000):
            random.Random(epoch).shuffle(utterances)
            parts = [utterances[i : i + rows] for i in range(0, len(utterances), rows)]
            for batch in Loader(parts, dataset, 0):
                yield self.source._prepare(batch, epoch)

    def planned_batches(self) -> Iterator[TrainBatch]:
        """Batches as training takes them, epoch after epoch."""
        for epoch in range(1000):
            yield from self.source.train_batches(epoch, 0)


def _step_of(prober: Prober, bucket: BucketPlan) -> tuple[Probe, float]:
    """A step of the bucket's largest piece, and the MiB that the process held before it."""
    shape = Bucket(bucket.frames, bucket.tokens, bucket.utterances)
    probe = prober.run(bucket.micro_rows, shape)
    return probe, (resident_bytes(peak=True) or 0) / MIB - (probe.resident_mib or 0.0)


def memory_table(run: Run, plan: Plan) -> list[str]:
    """Predicted peaks of every bucket's largest piece, and those of three steps of each.

    The buckets come in turns, the shortest first, as training mixes them. A process is predicted
    as what it holds before the step and what the step is predicted to add.
    """
    rows = [
        "| frames | at once | tensors predicted | measured | resident predicted | measured "
        "| process predicted | measured |"
    ]
    rows.append("|" + "---|" * 8)
    prober = Prober(run.step, run.config.features.num_mel_bins, 1)
    buckets = plan.buckets[::-1]
    rounds = [[_step_of(prober, b) for b in buckets] for _ in range(STEPS)]
    for b, probes in zip(buckets, zip(*rounds, strict=True), strict=True):
        probe, before = max(probes, key=lambda pair: pair[0].resident_mib or 0.0)
        tensors = max(p.tensor_mib or 0.0 for p, _ in probes)
        resident, predicted = probe.resident_mib or 0.0, b.predicted_resident_mib or 0.0
        pairs = [(b.predicted_tensor_mib, tensors), (predicted, resident)]
        pairs.append((before + predicted, before + resident))
        cells = [f"{p:.0f} | {m:.0f} ({p / m - 1:+.1%})" for p, m in pairs if p and m]
        rows.append(f"| {b.frames} | {b.micro_rows} of {b.rows} | " + " | ".join(cells) + " |")
    return rows


def largest_fixed(run: Run) -> int:
    """Utterances that fit when all are as long as the longest."""
    speech = profile_speech(run.source.lengths())
    free = run.config.train.memory_mib * MIB - (resident_bytes() or 0)
    free -= run.source.bytes_to_come()
    adam = 8 * describe_model(run.step)["trained_parameters"]
    prober = Prober(run.step, run.config.features.num_mel_bins, 1)
    planner = Planner(run.config, prober, speech, 1, SHARE["cpu"] * (free - adam))
    cost = planner._cost(speech.buckets[0])
    if cost is None:
        raise SystemExit("one utterance does not fit: give more memory")
    rows = cost.fitting(planner.budget) // speech.buckets[0].frames
    return planner._verified(rows, speech.buckets[0])[0]


def main() -> None:
    """Plan, then train both ways in turns."""
    config_path, data_dir, lang_dir, *rest = sys.argv[1:]
    numbers, options = [x for x in rest if "=" not in x], [x for x in rest if "=" in x]
    memory, seconds = (float(n) for n in (numbers + ["1024", "30"][len(numbers) :])[:2])
    config = load_config(config_path, [f"train.memory_mib={memory:.0f}", *options])
    run = Run(config, Path(data_dir), Path(lang_dir))
    print(f"{torch.get_num_threads()} threads, a process of {memory:.0f} MiB")
    rows = largest_fixed(run)
    with tempfile.TemporaryDirectory() as folder:
        plan = Sizing(config, run.source, Path(folder), run.step.world)(run.step)
    if plan is None:
        raise SystemExit("this torch cannot measure memory")
    print(f"measuring took {plan.seconds:.1f} s")
    print("\n".join(memory_table(run, plan)))
    limits, found = run.step.limits, {}
    for name in ("planned", f"fixed, {rows} utterances"):
        run.step.limits = limits if name == "planned" else ()
        batches = run.planned_batches() if name == "planned" else run.fixed_batches(rows)
        found[name] = run.speed(batches, seconds)
    print(
        "| batches | padding | audio-hours per hour | s a step | process MiB |\n|---|---|---|---|---|"
    )
    for name, v in found.items():
        print(
            f"| {name} | {v['padding']:.1%} | {v['audio_hours_per_hour']:.0f} "
            f"| {v['seconds_a_step']:.3f} | {v['process_mib']:.0f} |"
        )
    planned, fixed = (v["audio_hours_per_hour"] for v in found.values())
    print(f"planned over fixed: {planned / fixed:.2f}")


if __name__ == "__main__":
    main()
