"""A simulated corpus of 10,000 hours: stamp, index, batches and auto-configuration, their time and memory.

Utterances share a few hundred feature files, so that batches can be read.

Run by hand: python -m tests.benchmarks.bench_sampling [hours]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lmu_asr.config import Config, LangConfig
from lmu_asr.config_files import load_config
from lmu_asr.data.batches.index import build_index
from lmu_asr.files import write_json, write_jsonl
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.prepare import prepare_lang
from lmu_asr.stages.stamp import make_stamp, with_outputs
from lmu_asr.training.loop.setup import make_model
from lmu_asr.training.loop.source import LoaderSource
from lmu_asr.training.loop.step import GradientStep
from lmu_asr.training.parallel.processes import current_world
from lmu_asr.training.sizing.sizing import Sizing

WORDS = [
    "a",
    "sentence",
    "of",
    "some",
    "length",
    "that",
    "stands",
    "for",
    "what",
    "was",
    "said",
    "in",
    "the",
    "simulated",
    "utterance",
]
LONGEST, BINS = 3500, 80


def cuts(hours: float) -> Iterator[dict]:
    """Stored cuts of about 12 s, as stage 1 writes them."""
    rng = np.random.default_rng(0)
    seconds, number = hours * 3600.0, 0
    while seconds > 0:
        for duration in np.clip(rng.normal(12.0, 4.0, 10000), 1.0, 35.0).round(1).tolist():
            name, frames = f"utterance-{number:08d}", round(100 * duration)
            words = WORDS * (frames // 500 + 1)
            yield {
                "id": name,
                "start": 0.0,
                "duration": duration,
                "channel": 0,
                "supervisions": [{"id": name, "text": " ".join(words), "duration": duration}],
                "features": {
                    "num_frames": frames,
                    "storage_type": "numpy_files",
                    "storage_path": "feats",
                    "storage_key": f"si/simulated-{frames}.npy",
                },
                "type": "MonoCut",
            }
            number += 1
            seconds -= duration
            if seconds <= 0:
                return


def options() -> Config:
    """The default model and batches."""
    return load_config(None, ["train.num_buckets=30", "train.num_workers=0"])


def make_data(root: Path, hours: float) -> None:
    """Write manifest, index, features of every length, and a lang directory."""
    (root / "feats/si").mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(LONGEST, BINS)).astype(np.float32)
    for frames in range(100, LONGEST + 1, 10):
        np.save(root / f"feats/si/simulated-{frames}.npy", noise[:frames])
    manifest = root / "train_cuts.jsonl.gz"
    begin = time.perf_counter()
    count = write_jsonl(manifest, cuts(hours))
    write_jsonl(root / "dev_cuts.jsonl.gz", list(cuts(0.01)))
    size = manifest.stat().st_size / 2**20
    print(f"manifest of {count} cuts, {size:.0f} MiB: {time.perf_counter() - begin:.0f} s")
    begin = time.perf_counter()
    build_index(cuts(hours), manifest.with_name("train_cuts.index"), manifest)
    print(f"index, once: {time.perf_counter() - begin:.0f} s")
    write_json(root / "cmvn.json", {"mean": [0.0] * BINS, "std": [1.0] * BINS})
    prepare_lang(LangConfig(), [" ".join(WORDS)], [], root / "lang")


def stamp(root: Path) -> None:
    """The stamp of a stage that reads and leaves the manifests; prints its time."""
    begin = time.perf_counter()
    files = [root / "train_cuts.jsonl.gz", root / "dev_cuts.jsonl.gz", root / "feats"]
    made = make_stamp({}, {}, files[:2], root, {}, {})
    with_outputs(made, files, root)
    print(f"stamp: {time.perf_counter() - begin:.2f} s, {peak()}")


def train(root: Path, start_share: float) -> None:
    """What training does up to its first batch, from some place of an epoch; prints the times."""
    torch.set_num_threads(1)
    config, world = options(), current_world(prefer_gpu=False)
    begin = time.perf_counter()
    lang = Lang.load(root / "lang")
    model = make_model(config, root, lang.vocab_size, "").train()
    source = LoaderSource(config, root, lang, model, world)
    model.head.prepare(config, lang, source.transcripts())
    step = GradientStep(model, world, None, lambda: None)
    count = source.count_batches(3)
    counted = time.perf_counter() - begin
    plan = Sizing(config, source, root, world)(step)
    planned = time.perf_counter() - begin
    first = next(iter(source.train_batches(3, int(start_share * count))))
    done = time.perf_counter() - begin
    print(
        f"from {start_share:.0%} of {count} batches: {counted:.1f} s to count them, "
        f"{planned - counted:.1f} s for the plan ({plan.seconds if plan else 0:.1f} s of steps when "
        f"measured), first batch ({len(first.ids)} utterances) {done - planned:.1f} s later, "
        f"after {done:.1f} s in all; {peak()}"
    )


def peak() -> str:
    """Peak resident memory of this process."""
    return f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def main() -> None:
    """Make the data, then each measurement in a process of its own."""
    if len(sys.argv) > 2:
        name, root, *rest = sys.argv[1:]
        {"stamp": stamp, "train": train}[name](Path(root), *(float(x) for x in rest))
        return
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 10000.0
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), hours)
        print(f"making them: {peak()}", flush=True)
        command = [sys.executable, "-m", "tests.benchmarks.bench_sampling"]
        for arguments in (["stamp", folder], ["train", folder, "0"], ["train", folder, "0.5"]):
            subprocess.run([*command, *arguments], check=True)


if __name__ == "__main__":
    main()
