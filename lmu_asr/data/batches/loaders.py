"""Loaders: stored cuts in, padded batches out.

Shapes: N batch, T frames, F features.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.features.io import get_reader
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lmu_asr.config import Config
from lmu_asr.data.augment.noise import NoiseMixer
from lmu_asr.data.augment.reverb import Reverberator
from lmu_asr.data.batch import Batch
from lmu_asr.data.batches.index import IndexedSampler, open_index
from lmu_asr.data.batches.sampler import (
    BatchSampler,
    CutRecord,
    Keep,
    batches_by_duration,
    filter_utterances,
    manifest_fingerprint,
    read_utterances,
)
from lmu_asr.data.features.archive import (
    DAMAGED,
    LILCOM_CHUNKY,
    read_features,
    say_unchecked,
    sums_path,
)
from lmu_asr.data.shar.files import ADVICE, SHAR, read_member
from lmu_asr.errors import DataError
from lmu_asr.host_memory import host_memory

Mixer = Callable[[NDArray[np.float32], str], NDArray[np.float32]]

PADDING = -15.942385  # log of Kaldi's energy floor: digital silence
CACHE_SHARE = 1 / 8  # of the memory that is free
MOST_WORKERS = 8
PREFETCH = 4


class FeatureStore:
    """Feature matrices side by side in one block of memory.

    Matrices of their own would lie between the short-lived arrays of loading and keep the memory
    around them from being used again: three times their size in the end.

    Args:
        capacity: bytes of all matrices; taken from the system as they come.
    """

    def __init__(self, capacity: int) -> None:
        self._block = np.empty(capacity // 4, dtype=np.float32)
        self._matrices: dict[str, NDArray[np.float32]] = {}
        self._used = 0

    @property
    def bytes_to_come(self) -> int:
        """Memory that is not yet in use."""
        return int(self._block.nbytes - 4 * self._used)

    def get(self, utterance: CutRecord) -> NDArray[np.float32]:
        """Features (T, F), read at the first call."""
        if utterance.id not in self._matrices:
            read = load_features(utterance)
            place = self._block[self._used : self._used + read.size].reshape(read.shape)
            place[:] = read
            self._matrices[utterance.id] = place
            self._used += read.size
        return self._matrices[utterance.id]


class FeatureSet(Dataset[Batch]):
    """Loads batches of utterances; holds features in memory where they fit comfortably.

    Args:
        store: keeps every matrix that was read; None: none is kept.
        mixers: change features (T, F) by the utterance's id, one after the other.
    """

    def __init__(self, store: FeatureStore | None = None, mixers: Sequence[Mixer] = ()) -> None:
        self._store = store
        self._mixers = list(mixers)

    def with_mixers(self, mixers: Sequence[Mixer]) -> FeatureSet:
        """Return a set with the same memory and other mixers."""
        return FeatureSet(self._store, mixers)

    def bytes_to_come(self) -> int:
        """Memory that features will take which are kept once they are read."""
        return self._store.bytes_to_come if self._store else 0

    def __getitem__(self, utterances: Sequence[CutRecord]) -> Batch:  # type: ignore[override]
        load = self._store.get if self._store else load_features
        features = [load(u) for u in utterances]
        for mixer in self._mixers:
            features = [mixer(f, u.id) for f, u in zip(features, utterances, strict=True)]
        return collate(utterances, features)


def load_features(utterance: CutRecord) -> NDArray[np.float32]:
    """Read the stored features (T, F) of an utterance.

    Raises:
        DataError: the archive is missing, cut short or damaged, or has other frames than the manifest
            says.
    """
    kind, path, key = utterance.storage
    advice = ADVICE if kind == SHAR else "run stage 1 again"
    try:
        features = np.asarray(_stored(kind, path, key), dtype=np.float32)
    except DataError as error:
        raise DataError(f"{path}: features of '{utterance.id}': {error}; {DAMAGED}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path}: features of '{utterance.id}' cannot be read ({error}); {advice}"
        ) from error
    if len(features) != utterance.num_frames:
        raise DataError(
            f"{path}: '{utterance.id}' has {len(features)} frames, the manifest says "
            f"{utterance.num_frames}; {advice}"
        )
    return features


def _stored(kind: str, path: str, key: str) -> Any:
    if kind == SHAR:
        return read_member(path, key)
    return read_features(path, key) if kind == LILCOM_CHUNKY else get_reader(kind)(path).read(key)


def _say_if_unchecked(utterance: CutRecord) -> None:
    kind, path, _ = utterance.storage
    archive = Path(path)
    if kind == LILCOM_CHUNKY and archive.is_file() and not sums_path(archive).exists():
        say_unchecked(str(archive.parent))


def collate(utterances: Sequence[CutRecord], features: Sequence[NDArray[np.float32]]) -> Batch:
    """Pad features (T, F) of several utterances to one batch (N, T, F); of none to (0, 0, 0)."""
    lens = [len(f) for f in features]
    shape = (len(lens), max(lens), features[0].shape[1]) if lens else (0, 0, 0)
    padded = np.full(shape, PADDING, dtype=np.float32)
    for row, values in zip(padded, features, strict=True):
        row[: len(values)] = values
    return Batch(
        features=torch.from_numpy(padded),
        feature_lens=torch.tensor(lens, dtype=torch.int64),
        texts=[u.text for u in utterances],
        ids=[u.id for u in utterances],
        durations=[u.duration for u in utterances],
    )


class Loader:
    """Batches in the order of a list or sampler, read ahead by worker processes.

    Args:
        batches: lists of utterances; iterated anew for each pass.
        dataset: reads them.
        num_workers: processes; 0 reads in this one.
    """

    def __init__(
        self, batches: Iterable[list[CutRecord]], dataset: FeatureSet, num_workers: int
    ) -> None:
        self.batches, self.dataset, self.num_workers = batches, dataset, num_workers

    def __len__(self) -> int:
        """Batches of a whole pass over all processes' shares."""
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            DataError: features cannot be read, or a worker process was killed.
        """
        if self.num_workers == 0:
            for utterances in self.batches:
                yield self.dataset[utterances]
            return
        loader = DataLoader(
            self.dataset,
            sampler=self.batches,  # type: ignore[arg-type]
            # the sampler gives whole batches, and torch must not batch them again
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=PREFETCH,
        )
        try:
            yield from loader
        except RuntimeError as error:
            # torch says by the text alone that a worker was killed
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a loader process was killed ({error}); set train.num_workers lower if memory "
                "runs out"
            ) from error


def build_train_loader(
    cuts_path: Path,
    config: Config,
    keep: Keep | None = None,
    rank: int = 0,
    world_size: int = 1,
    epoch: int = 0,
    start_batch: int = 0,
) -> Loader:
    """Return this process's share of the global batches of an epoch.

    Args:
        cuts_path: ``<split>_cuts.jsonl.gz`` of the training split.
        config: the resolved configuration; seed, train.max_duration, num_buckets, sorted_epochs,
            num_workers.
        keep: returns why an utterance is left out, or None. Reading and filtering are done once
            for the same path and the same callable.
        rank: this process.
        world_size: processes.
        epoch: decides the order, with the seed.
        start_batch: global batches to skip.

    Raises:
        DataError: the manifest is missing or broken, or no utterance is left.
    """
    workers = config.train.num_workers
    workers = default_num_workers() if workers < 0 else workers
    options = config.train.max_duration, config.train.num_buckets, config.seed
    sampler: BatchSampler
    index = open_index(Path(cuts_path))
    if index is not None:
        _say_if_unchecked(index[0])
        sampler = IndexedSampler(index, keep, *options, rank, world_size)
        dataset = FeatureSet()
    else:
        path = Path(cuts_path)
        # part of the cache's key: a manifest that was made again is read again
        stamp = path.stat().st_mtime_ns if path.is_file() else 0
        utterances, fingerprint, dataset = _training_set(
            path, stamp, keep, workers == 0, world_size, config.train.memory_mib
        )
        sampler = BatchSampler(utterances, *options, fingerprint, rank, world_size)
    sampler.sorted_epochs = config.train.sorted_epochs
    sampler.set_epoch(epoch, start_batch)
    return Loader(sampler, dataset.with_mixers(mixers(config, epoch)), workers)


def mixers(config: Config, epoch: int) -> list[Mixer]:
    """Rooms, then noise, as ``augment.rir_dir`` and ``augment.noise_dir`` ask for."""
    arguments = config.augment, config.features, config.seed, epoch
    made: list[Mixer] = []
    if config.augment.rir_dir:
        made.append(Reverberator(*arguments))
    if config.augment.noise_dir:
        made.append(NoiseMixer(*arguments))
    return made


@functools.lru_cache(maxsize=2)
def _training_set(
    path: Path,
    stamp: int,
    keep: Keep | None,
    in_process: bool,
    world_size: int,
    most_mib: int,
) -> tuple[list[CutRecord], str, FeatureSet]:
    utterances = filter_utterances(read_utterances(path), keep, path.name)
    _say_if_unchecked(utterances[0])
    capacity = _capacity(utterances, world_size, most_mib) if in_process else 0
    store = FeatureStore(capacity) if capacity else None
    return utterances, manifest_fingerprint(path), FeatureSet(store)


def _capacity(utterances: list[CutRecord], world_size: int, most_mib: int) -> int:
    """Bytes of all features where they fit comfortably into the memory of this process, else 0."""
    width = load_features(utterances[0]).shape[1]
    needed = 4 * width * sum(u.num_frames for u in utterances)
    free = host_memory().available // world_size
    free = min(free, most_mib * 2**20) if most_mib else free
    if needed >= CACHE_SHARE * free:
        return 0
    logging.info("features are held in memory: %.0f MiB", needed / 2**20)
    return needed


def build_eval_loader(cuts_path: Path, max_duration: float, num_workers: int = 0) -> Loader:
    """Return all utterances of a split, by duration, in batches of ``max_duration`` padded seconds.

    Args:
        cuts_path: ``<split>_cuts.jsonl.gz``.
        max_duration: padded seconds of a batch.
        num_workers: loader processes; -1 chooses from the machine.

    Raises:
        DataError: the manifest is missing, broken or empty.
    """
    utterances = read_utterances(Path(cuts_path))
    if not utterances:
        raise DataError(f"{cuts_path}: no utterances")
    _say_if_unchecked(utterances[0])
    workers = default_num_workers() if num_workers < 0 else num_workers
    return Loader(list(batches_by_duration(utterances, max_duration)), FeatureSet(), workers)


def default_num_workers() -> int:
    """Loader processes for this machine.

    On a CPU none: features are read 8,000 times faster than time, and training wants the cores.
    """
    if not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(MOST_WORKERS, (cores or 1) // torch.cuda.device_count() - 1))
