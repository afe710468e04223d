"""Random access to a manifest of millions of cuts, and its batches, in bounded memory.

The index is one file beside the manifest: a checksum of what is read at once, a JSON header, the
durations, frames, offsets and checksums of all utterances as arrays, then their records. It is mapped, not read, so that processes share it. The
plan of an epoch is made from the durations alone, and resuming in its middle costs nothing.
"""

from __future__ import annotations

import functools
import gzip
import json
import mmap
import os
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmu_asr.data.batches.sampler import (
    BROKEN,
    BatchSampler,
    CutRecord,
    Keep,
    describe_dropped,
    utterance_of,
)
from lmu_asr.errors import DataError
from lmu_asr.files import atomic_path, parse_json, sha256_file

LEAST_BYTES = 4 << 20  # a manifest of some 30,000 cuts; smaller ones are simply read
KIND = b"LMUINDEX"
MAGIC = KIND + b"2\n"
CHECK_DIGITS = 8
COLUMNS = (("durations", "<f8"), ("frames", "<i4"), ("offsets", "<u8"), ("checks", "<u4"))


class Index:
    """Utterances of a manifest by number.

    Args:
        path: an index that :func:`build_index` wrote.

    Raises:
        DataError: not an index, or not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = path.resolve().parent
        self._file = open(path, "rb")  # noqa: SIM115
        try:
            self._read()
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{path}: damaged ({error}); delete it and run again") from error

    def _read(self) -> None:
        """Map the file and find its parts."""
        path = self.path
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        begin = len(MAGIC) + CHECK_DIGITS
        end = self._map.find(b"\n", begin)
        if self._map[: len(MAGIC)] != MAGIC or end < 0:
            raise DataError(f"{path}: not an index; delete it and run again")
        self.header: dict[str, Any] = parse_json(self._map[begin:end], str(path))
        place = end + 1
        arrays = {}
        for name, kind in COLUMNS:
            count = self.header["count"] + (name == "offsets")
            arrays[name] = np.frombuffer(self._map, kind, count, place)
            place += arrays[name].nbytes
        self.durations: NDArray[np.float64] = arrays["durations"]
        self.frames: NDArray[np.int32] = arrays["frames"]
        self._offsets, self._checks, self._records = arrays["offsets"], arrays["checks"], place
        self.kept_plan: tuple[tuple[Any, ...], list[NDArray[np.int64]]] | None = None
        if place + int(self._offsets[-1]) != len(self._map):
            raise DataError(f"{path}: cut short; delete it and run again")
        if self._offsets[0] or np.any(self._offsets[1:] < self._offsets[:-1]):
            raise DataError(f"{path}: damaged; delete it and run again")
        # records have checksums of their own: 100 MB of arrays stand for GB of records
        if self._map[len(MAGIC) : begin] != _digits(zlib.crc32(memoryview(self._map)[begin:place])):
            raise DataError(f"{path}: damaged (its checksum differs); delete it and run again")

    @property
    def fingerprint(self) -> str:
        """Hash of the manifest."""
        return str(self.header["sha256"])

    @property
    def record_bytes(self) -> NDArray[np.int64]:
        """Size of each record: what differs most between utterances is their text."""
        return np.diff(self._offsets).astype(np.int64)

    def __len__(self) -> int:
        return int(self.header["count"])

    def __getitem__(self, number: int) -> CutRecord:
        start, end = (self._records + int(o) for o in self._offsets[number : number + 2])
        record = os.pread(self._file.fileno(), end - start, start)  # no pages mapped around it
        if zlib.crc32(record) != self._checks[number]:
            raise DataError(
                f"{self.path}: damaged (the checksum of utterance {number} differs); delete it and "
                "run again"
            )
        try:
            return utterance_of(json.loads(record), self._folder)
        except BROKEN as error:
            raise DataError(f"{self.path}: damaged ({error!r}); delete it and run again") from error


def open_index(manifest: Path) -> Index | None:
    """Return the index of a large manifest, built when there is none; None for a small manifest."""
    if not manifest.is_file() or manifest.stat().st_size < LEAST_BYTES:
        return None
    path = index_path(manifest)
    state = [manifest.stat().st_size, manifest.stat().st_mtime_ns]
    if path.is_file() and not _is_older(path):
        index = _opened(path, path.stat().st_size, path.stat().st_mtime_ns)
        if index.header.get("manifest") == state:
            return index
    try:
        with gzip.open(manifest, "rt", encoding="utf-8") as stream:
            build_index(map(json.loads, stream), path, manifest)
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk
        raise DataError(
            f"{manifest}: not a whole cuts manifest with features ({error!r}); run stage 1 "
            "(features) again"
        ) from error
    return _opened(path, path.stat().st_size, path.stat().st_mtime_ns)


def _is_older(path: Path) -> bool:
    """Whether an earlier version wrote the index, which is then made again."""
    with open(path, "rb") as stream:
        magic = stream.read(len(MAGIC))
    return magic.startswith(KIND) and magic != MAGIC


def _digits(check: int) -> bytes:
    return b"%0*x" % (CHECK_DIGITS, check)


@functools.lru_cache(maxsize=2)
def _opened(path: Path, size: int, changed: int) -> Index:
    """One object for all who read the same file, so that they share the plan of an epoch."""
    return Index(path)


def index_path(manifest: Path) -> Path:
    """Return where the index of a manifest lies."""
    return manifest.with_name(f"{manifest.name.removesuffix('.jsonl.gz')}.index")


def build_index(cuts: Iterable[dict[str, Any]], path: Path, manifest: Path) -> None:
    """Write the index of ``manifest``, whose cuts are given, atomically."""
    stat = manifest.stat()
    state = [stat.st_size, stat.st_mtime_ns]
    write_index(cuts, path, lambda: {"manifest": state, "sha256": sha256_file(manifest)})


def write_index(
    cuts: Iterable[dict[str, Any]], path: Path, describe: Callable[[], dict[str, Any]]
) -> None:
    """Write an index of cuts atomically; ``describe`` gives its header when all have been read."""
    # the columns stand before the records, but are known only after them
    with tempfile.TemporaryFile(dir=path.parent) as records:
        columns = _write_records(cuts, records)
        header = {**describe(), "count": len(columns["durations"])}
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            top = [json.dumps(header).encode() + b"\n"]
            top += [np.asarray(columns[name], dtype=kind).tobytes() for name, kind in COLUMNS]
            check = functools.reduce(lambda crc, part: zlib.crc32(part, crc), top, 0)
            stream.writelines([MAGIC, _digits(check), *top])
            records.seek(0)
            while block := records.read(1 << 20):
                stream.write(block)


def _write_records(cuts: Iterable[dict[str, Any]], records: Any) -> dict[str, array[Any]]:
    columns: dict[str, array[Any]] = {
        "durations": array("d"),
        "frames": array("i"),
        "offsets": array("Q", [0]),
        "checks": array("I"),
    }
    for cut in cuts:
        features = cut["features"]
        slim = {
            "id": cut["id"],
            "duration": cut["duration"],
            "supervisions": [{"text": s.get("text")} for s in cut["supervisions"]],
            "features": {
                key: features[key]
                for key in ("num_frames", "storage_type", "storage_path", "storage_key")
            },
        }
        record = json.dumps(slim, ensure_ascii=False).encode()
        size = records.write(record)
        columns["checks"].append(zlib.crc32(record))
        columns["durations"].append(cut["duration"])
        columns["frames"].append(features["num_frames"])
        columns["offsets"].append(columns["offsets"][-1] + size)
    return columns


def plan_batches(
    durations: NDArray[np.float64],
    max_duration: float,
    num_buckets: int,
    rng: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Divide all utterances into batches of similar duration, in random order.

    Args:
        durations: (num_utterances,) seconds.
        max_duration: padded seconds of a batch; passed only by an utterance that is longer alone.
        num_buckets: buckets of equal audio.
        rng: decides the members and the order.

    Returns:
        Batches of utterance numbers; each utterance is in one.
    """
    ranked = np.sort(durations)
    shares = np.cumsum(ranked)
    edges = ranked[np.searchsorted(shares, shares[-1] * np.arange(1, num_buckets) / num_buckets)]
    order = rng.permutation(len(durations))
    bucket = np.searchsorted(edges, durations[order], side="right")
    batches: list[NDArray[np.int64]] = []
    for number in range(num_buckets):
        members = order[bucket == number]
        if len(members):
            size = max(1, int(max_duration / durations[members].max()))
            batches += np.split(members, range(size, len(members), size))
    return [batches[i] for i in rng.permutation(len(batches))]


class IndexedSampler(BatchSampler):
    """Global batches over an index: planned at once, resumed at no cost.

    What ``keep`` leaves out is found when its batch comes, and leaves that batch smaller.

    Args:
        index: utterances.
        keep: returns why an utterance is left out, or None.
        max_duration, num_buckets, seed, rank, world_size: as in :class:`BatchSampler`.

    Attributes:
        index: utterances.
    """

    def __init__(
        self,
        index: Index,
        keep: Keep | None,
        max_duration: float,
        num_buckets: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__((), max_duration, num_buckets, seed, index.fingerprint, rank, world_size)
        self.num_buckets = num_buckets
        self.index, self._keep = index, keep

    def _plan(self) -> list[NDArray[np.int64]]:
        is_sorted = self.epoch < self.sorted_epochs
        key = self.seed, self.epoch, self.max_duration, self.num_buckets, is_sorted
        if self.index.kept_plan is None or self.index.kept_plan[0] != key:
            # of seed and epoch alone: every rank, and every resume, plans the same
            rng = np.random.default_rng([self.seed, self.epoch])
            durations = self.index.durations
            plan = plan_batches(durations, self.max_duration, self.num_buckets, rng)
            if is_sorted:
                # stable: batches of equal length stay in their random order
                plan.sort(key=lambda numbers: float(durations[numbers].max()))
            self.index.kept_plan = key, plan
        return self.index.kept_plan[1]

    def __len__(self) -> int:
        """Global batches of the whole epoch."""
        return len(self._plan())

    def _global_batches(self, start: int = 0) -> Iterator[list[CutRecord]]:
        for numbers in self._plan()[start:]:
            yield self._batch(numbers)

    def _batch(self, numbers: NDArray[np.int64]) -> list[CutRecord]:
        batch = [self.index[int(number)] for number in numbers]
        if self._keep is not None:
            reasons = {u.id: reason for u in batch if (reason := self._keep(u)) is not None}
            describe_dropped(reasons, len(batch), f"a batch of {self.index.path.name}")
            batch = [u for u in batch if u.id not in reasons]
        return sorted(batch, key=lambda u: (-u.duration, u.id))
