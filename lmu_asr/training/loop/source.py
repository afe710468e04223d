"""The data of a training run: loaders, targets, the utterances that the head can learn, augmented views.

Augmentation of an utterance depends on the seed, the epoch, its id and the view alone: the same
for any number of processes, any batch and any place of resuming.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmu_asr.config import AugmentConfig, Config
from lmu_asr.data.augment.spec_augment import spec_augment_each
from lmu_asr.data.batch import Batch
from lmu_asr.data.batches.ahead import read_ahead
from lmu_asr.data.batches.index import IndexedSampler
from lmu_asr.data.batches.lengths import Lengths, lengths_of, lengths_of_index
from lmu_asr.data.batches.loaders import build_eval_loader, build_train_loader
from lmu_asr.data.shar.sampler import SharSource, build_shar_loader, open_shar
from lmu_asr.errors import DataError, LangError
from lmu_asr.files import fingerprint, sha256_file, write_jsonl
from lmu_asr.lang.lang import Lang
from lmu_asr.models.system import SpeechModel
from lmu_asr.text_lines import read_transcripts
from lmu_asr.training.loop.state import derive_seed
from lmu_asr.training.loop.step import TrainBatch
from lmu_asr.training.parallel.processes import World

BATCHES_TIMED = 4


class HeadFilter:
    """Keeps the utterances that the head can learn.

    Args:
        model: its head says what it can learn.
        lang: tokenizer.
    """

    def __init__(self, model: SpeechModel, lang: Lang) -> None:
        self.head, self.lang = model.head, lang
        # a corpus has few distinct lengths and many cuts, and each call makes a tensor
        self._frames = functools.lru_cache(maxsize=None)(
            lambda frames: int(model.output_lens(torch.tensor([frames])))
        )
        self.dropped: dict[str, str] = {}

    def __call__(self, cut: Any) -> str | None:
        """Return why ``cut`` is left out, or None to keep it; what is left out is noted."""
        reason = self._reason(cut)
        if reason is not None:
            self.dropped[cut.id] = reason
        return reason

    def _reason(self, cut: Any) -> str | None:
        text = " ".join(s.text or "" for s in cut.supervisions)
        try:
            target = self.head.targets(text, self.lang)
        except LangError as error:
            return str(error)
        return self.head.refusal(target, self._frames(cut.num_frames))


class LoaderSource:
    """Training and development batches of prepared data, as one process sees them.

    Args:
        config: the resolved configuration.
        data_dir: holds ``<split>_cuts.jsonl.gz`` of the training and development splits.
        lang: tokenizer.
        model: its head says what it learns from, and how many views of it.
        world: the processes of the run.
        record: file for the utterances left out and why, written by rank 0.

    Raises:
        DataError: a manifest is missing.
    """

    def __init__(
        self,
        config: Config,
        data_dir: Path,
        lang: Lang,
        model: SpeechModel,
        world: World,
        record: Path | None = None,
    ) -> None:
        self.config, self.lang, self.world = config, lang, world
        self.head = model.head
        self.workers = config.train.num_workers
        self.record = record if world.is_main else None
        self.train_path = data_dir / f"{config.corpus.train}_cuts.jsonl.gz"
        self.dev_path = data_dir / f"{config.corpus.dev}_cuts.jsonl.gz"
        # shards hold the training cuts themselves, so their manifest may be absent
        for path in (self.dev_path,) if config.train.shar else (self.train_path, self.dev_path):
            if not path.is_file():
                raise DataError(f"{path}: no such manifest; run stage 1 (features) first")
        self.filter = HeadFilter(model, lang)
        self.shar = self._open_shar() if config.train.shar else None

    def _open_shar(self) -> SharSource:
        """Open the shards; rank 0 makes their index while the others wait."""
        index = self.dev_path.with_name(f"{self.config.corpus.train}_shar.index")
        bins = self.config.features.num_mel_bins
        opened = [open_shar(self.config.train.shar, index, bins)] if self.world.is_main else []
        self.world.barrier()
        return opened[0] if opened else open_shar(self.config.train.shar, index, bins)

    def manifest_fingerprint(self) -> str:
        """SHA-256 over what identifies the training data (manifest, or index of shards) and the dev manifest."""
        if self.shar:
            train = fingerprint([self.shar.index.fingerprint, self.config.train.shar_window])
        else:
            train = sha256_file(self.train_path)
        return fingerprint([train, sha256_file(self.dev_path)])

    def count_batches(self, epoch: int) -> int:
        """Number of global batches of the epoch."""
        return len(self._loader(epoch, 0))

    def transcripts(self) -> Iterator[str]:
        """Transcripts of the training split, those of utterances left out among them.

        Raises:
            DataError: stage 1 has not written them.
        """
        return read_transcripts(self.dev_path.with_name(f"{self.config.corpus.train}_text"))

    def lengths(self) -> Lengths:
        """Frames of the training utterances, and tokens of all or, of millions, of a telling part."""
        sampler = self._loader(0, 0).batches

        def count(text: str) -> int:
            return len(self.head.targets(text, self.lang))

        if isinstance(sampler, IndexedSampler):
            return lengths_of_index(sampler.index, self.filter, count)
        return lengths_of(sampler.utterances, count)

    def seconds_to_load(self) -> float:
        """Seconds to make one batch in this process, the mean of the first few of an epoch."""
        start, count = time.monotonic(), 0
        for batch in itertools.islice(self._loader(0, 0, workers=0), BATCHES_TIMED):
            self._prepare(batch, 0)
            count += 1
        return round((time.monotonic() - start) / max(count, 1), 5)

    def bytes_to_come(self) -> int:
        """Memory that this process will take for features that it keeps."""
        return int(self._loader(0, 0).dataset.bytes_to_come())

    def use_workers(self, count: int) -> None:
        """Read the training split in ``count`` loader processes from now on."""
        self.workers = count

    def train_batches(self, epoch: int, start_batch: int) -> Iterator[TrainBatch]:
        """Yield this process's share of each global batch of the epoch from ``start_batch`` on."""
        loader = self._loader(epoch, start_batch)
        # a thread masks and spells the next batches while the device computes this one
        yield from read_ahead(self._prepare(batch, epoch) for batch in loader)

    def dev_batches(self) -> Iterable[Batch]:
        """Batches of the development split, the same in every process."""
        options = self.config.train
        return build_eval_loader(self.dev_path, options.max_duration, options.num_workers)

    def _loader(self, epoch: int, start_batch: int, workers: int | None = None) -> Any:
        rank, size = self.world.rank, self.world.world_size
        count = self.workers if workers is None else workers
        config = replace(self.config, train=replace(self.config.train, num_workers=count))
        place = self.filter, rank, size, epoch, start_batch
        if self.shar:
            loader = build_shar_loader(self.shar, config, *place)
        else:
            loader = build_train_loader(self.train_path, config, *place)
        if self.record:
            dropped = self.filter.dropped.items()
            write_jsonl(self.record, ({"id": name, "reason": why} for name, why in dropped))
            self.record = None
        return loader

    def _prepare(self, batch: Batch, epoch: int) -> TrainBatch:
        # the view is part of the seed, so that two views of an utterance are masked differently
        seeds = [(self.config.seed, "augment", epoch, view) for view in range(self.head.views)]
        views = [augment(batch, self.config.augment, seed) for seed in seeds]
        if self.world.device.type == "cuda":
            # pinned, so that the copy to the GPU does not make the CPU wait
            views = [view.pin_memory() for view in views]
        targets = [self.head.targets(text, self.lang) for text in batch.texts]
        return TrainBatch(
            tuple(views),
            batch.feature_lens,
            targets,
            list(batch.ids),
            sum(batch.durations),
            list(batch.texts),
        )


def augment(batch: Batch, config: AugmentConfig, seed: tuple[Any, ...]) -> Tensor:
    """Return the features ``(N, T, F)`` masked by SpecAugment, each utterance by its own seed."""
    if not config.spec_augment:
        return batch.features
    seeds = [derive_seed(*seed, name) for name in batch.ids]
    return spec_augment_each(batch.features, batch.feature_lens, config, seeds)
