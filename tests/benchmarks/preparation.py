"""Stage 1 over a simulated corpus of 10,000 hours: its time and peak memory, without reading audio.

A list of utterances of about 12 s goes through everything that stage 1 does but two steps, which take
the same memory for any corpus: the headers of audio files are made up, and so are the features of a
shard. What is measured: the import of the list, its split by speakers, validation, the plan of shards,
and the writing of manifests, index and texts.

Run by hand: python -m tests.benchmarks.preparation [hours]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lhotse import Recording
from lhotse.audio import AudioSource

from lmu_asr.config_files import load_config
from lmu_asr.data import manifests
from lmu_asr.data.features import extraction as shards
from lmu_asr.data.features import part as shard
from lmu_asr.files import write_jsonl
from lmu_asr.stages import features
from lmu_asr.stages.common import Context
from tests.benchmarks.bench_sampling import WORDS

MEAN_SECONDS, BINS, SPEAKER_UTTERANCES = 12.0, 80, 50


def seconds_of(name: str) -> float:
    """Duration of an utterance, 1 to 23 s."""
    return 1.0 + zlib.crc32(name.encode()) % 2200 / 100.0


def rows(count: int) -> Iterator[dict[str, str]]:
    """The list: every audio file is one utterance."""
    for number in range(count):
        name, speaker = f"utterance-{number:08d}", f"speaker-{number // SPEAKER_UTTERANCES:06d}"
        source = f"audio/{speaker}/{name}.flac"
        text = " ".join(WORDS * (1 + number % 2))
        yield {"key": name, "source": source, "target": text, "speaker": speaker}


def made_up_header(path: Path, recording_id: str) -> Recording:
    """Stand for :func:`lmu_asr.data.audio.reader.recording_from_file`."""
    samples = round(16000 * seconds_of(path.stem))
    source = AudioSource("file", [0], str(path))
    return Recording(recording_id, [source], 16000, samples, samples / 16000)


def made_up_shard(task: shard.Task) -> shard.Shard:
    """Stand for :func:`lmu_asr.data.features.part.make_shard`: the cuts, but no archive."""
    path = task.out_dir / "feats" / f"{task.name}.jsonl.gz"
    cuts, total = [], 0
    for number, (cut, _) in enumerate(task.items):
        frames = round(100 * cut.duration)
        key, stored_as = f"{100 * number},{100 * number + 99}", f"feats/{task.name}.lca"
        stored = shard._attach(cut, (frames, BINS), key, stored_as, task.config)
        cuts.append(shard.relative_recording(stored, task.out_dir).to_dict())
        total += frames
    made = shard.Shard(path, "", "", [], [], total, [0.0] * BINS, [1.0] * BINS)
    write_jsonl(path, [{"key": task.name}, *cuts])
    return made


def prepare(root: Path) -> None:
    """Run stage 1 with the stand-ins; prints time and peak memory."""
    manifests.recording_from_file = made_up_header
    shards.make_shard = made_up_shard
    overrides = ["corpus.name=own", f"corpus.source={root}/list.jsonl"]
    context = Context(load_config(None, overrides), root / "data", root / "exp", "own", 1)
    before, begin = _peak(), time.perf_counter()
    features.run(context)
    seconds = time.perf_counter() - begin
    print(f"stage 1: {seconds:.0f} s, peak memory {_peak():.2f} GiB ({before:.2f} at its start)")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Write the list, then prepare it in a process of its own."""
    if len(sys.argv) > 2:
        prepare(Path(sys.argv[2]))
        return
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 10000.0
    count = round(hours * 3600 / MEAN_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(Path(folder, "list.jsonl"), rows(count))
        size = Path(folder, "list.jsonl").stat().st_size / 2**20
        print(f"{hours:.0f} hours, {count} utterances, list of {size:.0f} MiB", flush=True)
        command = [sys.executable, "-m", "tests.benchmarks.preparation", "prepare", folder]
        subprocess.run(command, check=True)
        made = Path(folder, "data/own/fbank80")
        sizes = np.array([p.stat().st_size for p in made.rglob("*") if p.is_file()])
        print(f"{len(sizes)} files, {sizes.sum() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
