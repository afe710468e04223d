"""One shard of features: an archive and its cuts, whole or absent.

The archive ``<split>-<number>.lca`` is of Lhotse's lilcom_chunky storage. Written after it,
``<split>-<number>.crc`` holds checksums of its utterances and ``<split>-<number>.jsonl.gz`` a header and
the stored cuts. The header has a key over the cuts, the options and the bytes of the audio, and the
archive's checksum; a shard that agrees with both is not made again.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import MonoCut
from lhotse.features.base import Features
from lhotse.features.io import LilcomChunkyWriter
from lhotse.utils import fastcopy
from numpy.typing import NDArray

from lmu_asr.config import FeaturesConfig
from lmu_asr.data.audio.mono import Mono, to_mono
from lmu_asr.data.audio.reader import read_audio, resample
from lmu_asr.data.features.archive import write_sums
from lmu_asr.data.features.fbank import Extractor, get_extractor
from lmu_asr.errors import DataError
from lmu_asr.files import atomic_path, fingerprint, sha256_file, write_jsonl

VERSION = 3  # raise it when the stored values change
AHEAD = 3  # shards given out for each process
Item = tuple[MonoCut, float]  # a cut and its speed


@dataclass(frozen=True)
class Task:
    """One shard to make: its items, its place, the options."""

    name: str
    items: tuple[Item, ...]
    out_dir: Path
    config: FeaturesConfig


@dataclass(frozen=True)
class Shard:
    """What a finished shard says of itself.

    Attributes:
        path: its cuts, ``<out_dir>/feats/<name>.jsonl.gz``.
        key: hash over cuts, options and audio.
        archive_sha256: checksum of the archive.
        dropped: (utterance id, kind, detail) of what could not be read.
        repaired: (utterance id, kind) of samples that were scaled, or taken from one channel.
        frames: frames stored.
        sums: sum of each mel bin over the frames, float64.
        square_sums: sum of squares of each mel bin, float64.
    """

    path: Path
    key: str
    archive_sha256: str
    dropped: list[list[str]]
    repaired: list[list[str]]
    frames: int
    sums: list[float]
    square_sums: list[float]

    def cuts(self) -> Iterator[dict[str, Any]]:
        """Yield the stored cuts as dictionaries."""
        with gzip.open(self.path, "rt", encoding="utf-8") as stream:
            next(stream)
            yield from map(json.loads, stream)

    @property
    def archive(self) -> Path:
        """The features."""
        return self.path.with_name(self.path.name.replace(".jsonl.gz", ".lca"))

    @property
    def is_whole(self) -> bool:
        """Whether the archive is there with the bytes that were written."""
        return self.archive.is_file() and sha256_file(self.archive) == self.archive_sha256


def make_shard(task: Task) -> Shard:
    """Make one shard, or return it as it stands when it is whole and of the same input."""
    path = task.out_dir / "feats" / f"{task.name}.jsonl.gz"
    archive = path.with_name(f"{task.name}.lca")
    key = _key(task)
    shard = read_shard(path)
    if shard and shard.key == key and shard.is_whole:
        write_sums(archive, (cut["features"]["storage_key"] for cut in shard.cuts()))
        return shard
    # the header first: after a kill no header describes a newer archive
    path.unlink(missing_ok=True)
    with atomic_path(archive) as temporary, LilcomChunkyWriter(temporary) as writer:
        sums = _Sums(task.config.num_mel_bins)
        found = _extract(task, writer, f"feats/{archive.name}", sums)
    write_sums(archive, (cut["features"]["storage_key"] for cut in found.cuts))
    shard = Shard(
        *(path, key, sha256_file(archive), found.dropped, found.repaired),
        *(sums.frames, [*sums.sums], [*sums.square_sums]),
    )
    header = {k: v for k, v in asdict(shard).items() if k != "path"}
    write_jsonl(path, [header, *found.cuts])
    return shard


def read_shard(path: Path) -> Shard | None:
    """Read a shard's header; None when there is none or it is not whole."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            shard = Shard(path=path, **json.loads(next(stream)))
            while stream.read(1 << 20):  # the checksum of the whole comes at its end
                pass
            return shard
    except (OSError, EOFError, zlib.error, ValueError, TypeError, StopIteration):
        return None


def _key(task: Task) -> str:
    """Hash of the cuts, the options and the audio's bytes; of no absolute path."""
    paths = dict.fromkeys(cut.recording.sources[0].source for cut, _ in task.items)
    sums = [sha256_file(path) if Path(path).is_file() else "" for path in paths]
    cuts = [(relative_recording(cut, task.out_dir).to_dict(), speed) for cut, speed in task.items]
    # the cuts come with their speeds: another list of factors leaves whole shards as they are
    config = {k: v for k, v in asdict(task.config).items() if k != "speed_perturb"}
    return fingerprint([VERSION, config, cuts, sums])


class _Sums:
    """Sums and sums of squares of features, accumulated in float64 in a fixed order."""

    def __init__(self, num_mel_bins: int) -> None:
        self.frames = 0
        self.sums = np.zeros(num_mel_bins)
        self.square_sums = np.zeros(num_mel_bins)

    def add(self, features: NDArray[np.float32]) -> None:
        values = features.astype(np.float64)
        self.frames += len(values)
        self.sums += values.sum(axis=0)
        self.square_sums += np.square(values).sum(axis=0)


@dataclass(frozen=True)
class _Extracted:
    """Stored cuts as dictionaries, and what :class:`Shard` says of the others."""

    cuts: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[list[str]] = field(default_factory=list)
    repaired: list[list[str]] = field(default_factory=list)


def _extract(task: Task, writer: LilcomChunkyWriter, stored_as: str, sums: _Sums) -> _Extracted:
    """Store the features of a task."""
    extractor = get_extractor(task.config)
    found = _Extracted()
    for number, (cut, speed) in enumerate(task.items):
        torch.manual_seed(zlib.crc32(f"{task.name} {number}".encode()))  # of the dither
        output = cut if speed == 1.0 else cut.perturb_speed(speed)
        try:
            mono = read_mono(cut)
            features = _features(mono, cut, speed, output.duration, extractor, task.config)
        except DataError as error:
            found.dropped.append([cut.id, _kind(str(error)), str(error)])
            continue
        if speed == 1.0:  # once an utterance, not once a speed
            found.repaired.extend([cut.id, kind] for kind in mono.repairs)
        key = writer.write(output.id, features)  # rounds the values in place
        sums.add(features)
        stored = _attach(output, features.shape, key, stored_as, task.config)
        found.cuts.append(relative_recording(stored, task.out_dir).to_dict())
    return found


def _kind(detail: str) -> str:
    kinds = {
        "NaN": "NaN or infinite samples",
        "is silent": "silent audio",
        "unknown scale": "samples of an unknown scale",
    }
    return next((kind for word, kind in kinds.items() if word in detail), "unreadable audio")


def _features(
    mono: Mono,
    cut: MonoCut,
    speed: float,
    duration: float,
    extractor: Extractor,
    config: FeaturesConfig,
) -> NDArray[np.float32]:
    samples = converted(mono, cut, speed, duration, config.sample_rate)
    features = extractor(samples)
    if not np.isfinite(features).all():
        raise DataError(f"'{cut.id}': NaN or infinite features")
    return features


def _attach(
    cut: MonoCut, shape: tuple[int, ...], key: str, stored_as: str, config: FeaturesConfig
) -> MonoCut:
    """Return the cut with its features manifest."""
    features = Features(
        type="kaldi-fbank",
        num_frames=shape[0],
        num_features=shape[1],
        frame_shift=config.frame_shift_ms / 1000.0,
        sampling_rate=config.sample_rate,
        start=cut.start,
        duration=cut.duration,
        storage_type=LilcomChunkyWriter.name,
        storage_path=stored_as,
        storage_key=key,
        recording_id=cut.recording.id,
        channels=cut.channel,
    )
    return fastcopy(cut, features=features)


def relative_recording(cut: MonoCut, out_dir: Path) -> MonoCut:
    """Return the cut with its audio's path relative to ``out_dir`` if both lie in one corpus."""
    source = cut.recording.sources[0]
    path = Path(source.source)
    if not path.resolve().is_relative_to(out_dir.resolve().parent):
        return cut
    relative = os.path.relpath(path.resolve(), out_dir.resolve())
    return fastcopy(
        cut, recording=fastcopy(cut.recording, sources=[fastcopy(source, source=relative)])
    )


def read_mono(cut: MonoCut) -> Mono:
    """Read the audio of a cut at its own rate; ``channels`` in its custom fields are averaged.

    Raises:
        SilentAudioError: all samples are the same.
        DataError: unreadable or cut-short audio, NaN or infinite samples, or of no known scale.
    """
    recording = cut.recording
    path = recording.sources[0].source
    first = round(cut.start * recording.sampling_rate)
    count = min(round(cut.duration * recording.sampling_rate), recording.num_samples - first)
    samples, found_rate = read_audio(path, first, count)
    if found_rate != recording.sampling_rate:
        raise DataError(f"{path}: {found_rate} Hz, the manifest says {recording.sampling_rate} Hz")
    return to_mono(samples, (cut.custom or {}).get("channels", [cut.channel]), cut.id, path)


def converted(
    mono: Mono, cut: MonoCut, speed: float, duration: float, rate: int
) -> NDArray[np.float32]:
    """Resample the audio of a cut and change its speed.

    Args:
        mono: what :func:`read_mono` returned.
        cut: the cut.
        speed: factor of playback speed, 1 for none.
        duration: seconds of the result.
        rate: sample rate of the result, in hertz.

    Returns:
        Samples (round(duration * rate),), full scale 1.
    """
    samples = resample(mono.samples, round(cut.recording.sampling_rate * speed), rate)
    return _fit(samples, round(duration * rate))


def _fit(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Cut, or repeat, the sample or two that resampling and durations round differently."""
    if len(samples) >= length:
        return np.ascontiguousarray(samples[:length])
    return np.pad(samples, (0, length - len(samples)), mode="edge")
