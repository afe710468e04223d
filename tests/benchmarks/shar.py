"""Reading from Lhotse Shar against the archives of stage 1, and the plan of 10,000 hours of shards.

Run by hand: python -m tests.benchmarks.shar [FEATURES_DIR SPLIT]: what stage 1 left, which is exported;
without it, the plan alone.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmu_asr.config import Config, TrainConfig
from lmu_asr.data.batches.index import Index, write_index
from lmu_asr.data.batches.loaders import Loader, build_train_loader
from lmu_asr.data.shar.export import export_shar
from lmu_asr.data.shar.sampler import build_shar_loader, open_shar, plan_epoch
from tests.benchmarks.bench_sampling import cuts

HOURS, SHARD = 10000.0, 300
CONFIG = replace(Config(), train=TrainConfig(max_duration=200.0, num_workers=0))


def plan(root: Path) -> None:
    """Time and memory of planning epochs of 10,000 hours in shards of an hour."""
    total = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal total
        for cut in cuts(HOURS):
            total += 1
            yield cut

    def header() -> dict[str, Any]:
        sizes = [SHARD] * (total // SHARD) + [total % SHARD]
        return {"manifest": [], "sha256": "", "shards": sizes, "num_features": [80]}

    write_index(counted(), root / "index", header)
    index = Index(root / "index")
    for epoch in (0, 1):
        begin = time.perf_counter()
        planned = plan_epoch(index, 42, epoch, 200.0, 20, 5000)
        seconds = time.perf_counter() - begin
        print(
            f"{len(index)} utterances, {len(planned.windows)} windows, {len(planned.batches)} batches: "
            f"{seconds:.1f} s for the plan of epoch {epoch}, {_peak()}"
        )
    longest = [float(index.durations[batch].max()) for batch in planned.batches]
    padded = [len(batch) * most for batch, most in zip(planned.batches, longest, strict=True)]
    real = float(index.durations.sum())
    print(
        f"padding {1 - real / sum(padded):.1%}, mean batch {sum(padded) / len(padded):.0f} s of 200 s"
    )


def read(features: Path, split: str, root: Path) -> None:
    """Seconds to the first batch, and of an epoch, from shards and from archives."""
    export_shar(features, split, str(root))
    begin = time.perf_counter()
    source = open_shar(str(root / split), root / "index", 80)
    print(f"index of {len(source.index)} utterances: {time.perf_counter() - begin:.2f} s")
    manifest = features / f"{split}_cuts.jsonl.gz"
    config = replace(CONFIG, train=replace(CONFIG.train, shar_window=500, memory_mib=1))
    for name, build in (
        ("archives", lambda start: build_train_loader(manifest, config, start_batch=start)),
        ("shards", lambda start: build_shar_loader(source, config, start_batch=start)),
    ):
        count = len(build(0))
        for start in (0, count // 2, count - 1):
            print(
                f"{name}, from batch {start} of {count}: first after {_first(build(start)):.2f} s"
            )
        begin = time.perf_counter()
        seconds = sum(sum(batch.durations) for batch in build(0))
        taken = time.perf_counter() - begin
        print(
            f"{name}: {seconds / 3600:.2f} h in {taken:.1f} s, {seconds / taken:.0f} times real time"
        )


def _first(loader: Loader) -> float:
    begin = time.perf_counter()
    next(iter(loader))
    return time.perf_counter() - begin


def _peak() -> str:
    return f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def main() -> None:
    """Measure in a temporary directory."""
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 2:
            read(Path(sys.argv[1]), sys.argv[2], Path(folder) / "shar")
        else:
            plan(Path(folder))


if __name__ == "__main__":
    main()
