"""Sampling of a simulated corpus of 10,000 hours: time and memory of its index and batches.

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

from lmu_asr.data.index import IndexedSampler, build_index, open_index
from lmu_asr.files import write_jsonl

TEXT = "a sentence of some length that stands for what was said in the simulated utterance"


def cuts(hours: float) -> Iterator[dict]:
    """Stored cuts of about 12 s, as stage 1 writes them, without features."""
    rng = np.random.default_rng(0)
    seconds, number = hours * 3600.0, 0
    while seconds > 0:
        for duration in np.clip(rng.normal(12.0, 4.0, 10000), 1.0, 35.0).round(3).tolist():
            name = f"utterance-{number:08d}"
            frames = round(100 * duration)
            yield {
                "id": name,
                "start": 0.0,
                "duration": duration,
                "channel": 0,
                "supervisions": [{"id": name, "text": TEXT, "duration": duration}],
                "features": {
                    "num_frames": frames,
                    "storage_type": "lilcom_chunky",
                    "storage_path": f"feats/train-{number // 300:05d}.lca",
                    "storage_key": f"{number},31000,31000",
                },
                "type": "MonoCut",
            }
            number += 1
            seconds -= duration
            if seconds <= 0:
                return


def sample(manifest: Path, start_share: float) -> None:
    """First batch of an epoch from some place of it; prints seconds and peak memory."""
    begin = time.perf_counter()
    index = open_index(manifest)
    if index is None:
        raise SystemExit("the manifest is too small to have an index")
    sampler = IndexedSampler(index, None, 600.0, 30, 42)
    sampler.set_epoch(3, int(start_share * len(sampler)))
    first = next(iter(sampler))
    seconds = time.perf_counter() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"from {start_share:.0%} of {len(sampler)} batches of {len(index)} utterances: first batch "
        f"({len(first)} utterances) after {seconds:.1f} s, peak memory {memory:.2f} GiB"
    )


def main() -> None:
    """Make the manifest, then sample it in processes of their own."""
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 10000.0
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "train_cuts.jsonl.gz"
        begin = time.perf_counter()
        count = write_jsonl(manifest, cuts(hours))
        size = manifest.stat().st_size / 2**20
        print(f"manifest of {count} cuts, {size:.0f} MiB: {time.perf_counter() - begin:.0f} s")
        begin = time.perf_counter()
        build_index(cuts(hours), manifest.with_name("train_cuts.index"), manifest)
        print(f"index, once: {time.perf_counter() - begin:.0f} s")
        for share in (0.0, 0.5):
            code = "import sys; from pathlib import Path; from tests.benchmarks import bench_sampling as b; "
            code += "b.sample(Path(sys.argv[1]), float(sys.argv[2]))"
            subprocess.run([sys.executable, "-c", code, str(manifest), str(share)], check=True)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"peak memory of making both: {memory:.2f} GiB")


if __name__ == "__main__":
    main()
