"""Features of a split: from validated manifests to stored cuts and statistics.

Shapes: T frames, F mel bins.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.utils import fastcopy

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.batches.index import open_index
from lmu_asr.data.features.extraction import extract_shards, plan_shards
from lmu_asr.data.features.fbank import get_extractor
from lmu_asr.data.features.part import Shard
from lmu_asr.data.importing.validate import ValidationReport
from lmu_asr.data.manifests import Manifests, recording_rows
from lmu_asr.errors import DataError
from lmu_asr.files import write_json, write_jsonl

LEAST_STD = 1e-3  # a bin that never changes must not be divided by zero

__all__ = ["get_extractor", "make_cuts", "prepare_features", "read_cuts", "statistics"]


def make_cuts(manifests: Manifests) -> Iterator[MonoCut]:
    """Yield one cut for each supervision, under the supervision's id, in manifest order."""
    # utterances of one recording stand together mostly: it is not unpickled for each
    find = functools.lru_cache(maxsize=16)(recording_rows(manifests.recordings).get)
    for supervision in manifests.supervisions:
        recording = find(supervision.recording_id)
        if recording is None:
            raise DataError(f"'{supervision.id}': no recording '{supervision.recording_id}'")
        yield _make_cut(recording, supervision)


def _make_cut(recording: Recording, supervision: SupervisionSegment) -> MonoCut:
    channels = supervision.channel
    channel = channels[0] if isinstance(channels, list) else channels
    averaged = isinstance(channels, list) and len(channels) > 1
    return MonoCut(
        id=supervision.id,
        start=supervision.start,
        duration=supervision.duration,
        channel=channel,
        supervisions=[fastcopy(supervision, start=0.0, channel=channel)],
        recording=recording,
        custom={"channels": channels} if averaged else None,
    )


def prepare_features(
    manifests: Manifests,
    split: str,
    config: FeaturesConfig,
    out_dir: Path,
    nj: int = 1,
    training: bool = False,
    report: ValidationReport | None = None,
    on_ray: bool = False,
) -> CutSet:
    """Extract and store the features of one validated split.

    Leaves ``<split>_cuts.jsonl.gz``, ``feats/<split>-<shard>.lca``, ``<split>_report.json`` and,
    for the training split, ``cmvn.json`` in ``out_dir``; paths in the cuts are relative to it
    where they lie in it. The bytes depend on the manifests, the audio and ``config`` alone.

    Args:
        manifests: what :func:`lmu_asr.data.importing.validate.validate_and_repair` returned.
        split: name of the split.
        config: features and speed factors.
        out_dir: directory of the corpus's features.
        nj: processes.
        training: add the speed factors, and write the statistics for normalisation.
        report: report to which utterances that cannot be read are added.
        on_ray: the processes are those of a Ray cluster.

    Returns:
        The stored cuts, as :func:`read_cuts` gives them.

    Raises:
        DataError: more than half of the split cannot be read, or a process was killed.
    """
    report = report or ValidationReport(split, total=len(manifests.supervisions))
    get_extractor(config)  # a backend that is not there is found before any work
    for left in (*out_dir.glob(f".{split}_*.tmp*"), *out_dir.glob(".cmvn.json.*.tmp*")):
        left.unlink()  # of a run that was killed while it wrote
    speeds = [1.0, *(f for f in config.speed_perturb if f != 1.0)] if training else [1.0]
    items = ((cut, speed) for speed in speeds for cut in make_cuts(manifests))
    durations = array("d", (s.duration for s in manifests.supervisions))
    plan = plan_shards(durations, speeds)
    shards = extract_shards(items, plan, split, config, out_dir, nj, on_ray)
    for shard in shards:
        for utterance, kind, detail in shard.dropped:
            report.drop(utterance, kind, detail)
        for utterance, kind in shard.repaired:
            report.repair(utterance, kind)
    report.refuse_too_many()
    path = out_dir / f"{split}_cuts.jsonl.gz"
    write_jsonl(path, (cut for shard in shards for cut in shard.cuts()))
    # built here once, not by every process of training at its start
    open_index(path)
    write_json(out_dir / f"{split}_report.json", report.to_json())
    if training:
        write_json(out_dir / "cmvn.json", statistics(shards))
    return read_cuts(path)


def statistics(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return mean and standard deviation of each mel bin over all frames, as ``cmvn.json`` has them.

    The sums are float64, added in the order of the shards.
    """
    frames = sum(shard.frames for shard in shards)
    mean = np.sum([shard.sums for shard in shards], axis=0) / frames
    variance = np.sum([shard.square_sums for shard in shards], axis=0) / frames - mean**2
    std = np.sqrt(np.maximum(variance, LEAST_STD**2))
    return {"frames": frames, "mean": mean.tolist(), "std": std.tolist()}


def read_cuts(path: Path) -> CutSet:
    """Open a cuts manifest lazily, its relative paths resolved from the manifest's directory.

    Raises:
        DataError: the manifest does not exist.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; run stage 1 (features) first")
    folder = path.resolve().parent
    return CutSet.from_jsonl_lazy(path).map(partial(with_folder, folder=folder))


def with_folder(cut: MonoCut, folder: Path) -> MonoCut:
    """Resolve relative paths; lhotse's own prefixing would touch absolute ones too."""
    changes: dict[str, Any] = {}
    if cut.features is not None and not Path(cut.features.storage_path).is_absolute():
        path = str(folder / cut.features.storage_path)
        changes["features"] = fastcopy(cut.features, storage_path=path)
    if cut.recording is not None and not Path(cut.recording.sources[0].source).is_absolute():
        source = cut.recording.sources[0]
        sources = [fastcopy(source, source=str(folder / source.source))]
        changes["recording"] = fastcopy(cut.recording, sources=sources)
    return fastcopy(cut, **changes)
