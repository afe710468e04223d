"""Log-probabilities of a whole split, computed once and shared by every search.

Shapes: N batch, T frames, T' frames after subsampling, F features, V vocabulary.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmu_asr.data.batch import Batch
from lmu_asr.errors import DataError, ModelError
from lmu_asr.progress import progress

DEFAULT_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class PosteriorBatch:
    """``log_probs`` (N, T', V) float32 on the CPU, ``lens`` (N,) int64, and the utterance ids."""

    ids: list[str]
    log_probs: Tensor
    lens: Tensor


@dataclass
class Posteriors:
    """Log-probabilities of one split, without any transcript.

    Batches stay in memory up to ``memory_bytes``; later ones are kept as float32 files under
    ``spill_dir`` and mapped when read. Use it as a context manager: leaving removes the files.
    """

    spill_dir: Path | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    audio_seconds: float = 0.0
    encoder_seconds: float = 0.0
    ids: list[str] = field(default_factory=list)
    _batches: list[PosteriorBatch | tuple[list[str], Path, Tensor]] = field(default_factory=list)
    _held: int = 0
    _folder: Path | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[PosteriorBatch]:
        for item in self._batches:
            if isinstance(item, PosteriorBatch):
                yield item
                continue
            ids, path, lens = item
            # "c" is copy on write: torch wants writable memory, and the file must not change
            mapped = np.load(path, mmap_mode="c")  # (N, T', V), read page by page
            yield PosteriorBatch(ids, torch.from_numpy(mapped), lens)

    def __enter__(self) -> Posteriors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, batch: PosteriorBatch) -> None:
        """Keep one batch, in memory or, once ``memory_bytes`` are held, on disk."""
        self.ids += batch.ids
        size = batch.log_probs.numel() * batch.log_probs.element_size()
        if self.spill_dir is None or self._held + size <= self.memory_bytes:
            self._held += size
            self._batches.append(batch)
            return
        path = self._spill_folder() / f"{len(self._batches):06d}.npy"
        np.save(path, batch.log_probs.numpy())
        self._batches.append((batch.ids, path, batch.lens))

    def close(self) -> None:
        """Forget all batches and remove the files that held them."""
        self._batches.clear()
        self._held = 0
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _spill_folder(self) -> Path:
        if self._folder is None and self.spill_dir is not None:
            self.spill_dir.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=".posteriors-", dir=self.spill_dir))
            logging.info("log-probabilities beyond %d MiB go to disk", self.memory_bytes >> 20)
        return self._folder or Path()


@torch.inference_mode()
def compute_posteriors(
    model: Any,
    loader: Iterable[Batch],
    device: torch.device | str = "cpu",
    chunk_frames: int = 0,
    spill_dir: Path | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    name: str = "encoder",
) -> tuple[Posteriors, dict[str, str]]:
    """Run the encoder over a split once.

    Args:
        model: a ``SpeechModel``: (features (N, T, F), lens (N,)) -> (log_probs (N, T', V), lens (N,)).
        loader: batches of the split, each utterance once.
        device: where the model runs; log-probabilities come back to the CPU.
        chunk_frames: 0: whole utterances; else each utterance alone through ``model.step()`` in
            chunks of this many frames, as a stream would arrive.
        spill_dir: where log-probabilities beyond ``memory_bytes`` go; None: all stay in memory.
        memory_bytes: bytes of log-probabilities held in memory.
        name: what the progress line calls it.

    Returns:
        The log-probabilities, and the reference text of each utterance id. ``encoder_seconds`` is
        wall time without loading features, after one utterance to warm up.

    Raises:
        ModelError: NaN or +infinity among an utterance's log-probabilities; the message names it.
        DataError: no utterance, or an id that occurs twice.
    """
    device = torch.device(device)
    model = model.to(device).eval()
    texts: dict[str, str] = {}
    posteriors = Posteriors(spill_dir, memory_bytes)
    for batch in progress(loader, name, unit="batch"):
        if not texts:
            _warm_up(model, batch, device, chunk_frames)
        start = time.perf_counter()
        log_probs, lens = _forward(model, batch, device, chunk_frames)
        posteriors.encoder_seconds += time.perf_counter() - start
        _check_finite(log_probs, lens, batch.ids)
        _check_new(batch.ids, texts)
        posteriors.audio_seconds += float(sum(batch.durations))
        texts.update(zip(batch.ids, batch.texts, strict=True))
        # transcripts stay apart, so that no search can see them
        posteriors.add(PosteriorBatch(list(batch.ids), log_probs, lens))
    if not texts:
        raise DataError(f"{name}: no utterances to decode")
    return posteriors, texts


def _warm_up(model: Any, batch: Batch, device: torch.device, chunk_frames: int) -> None:
    """Run one utterance before the clock starts: first calls allocate, compile and cache."""
    if chunk_frames:
        stream_utterance(model, batch.features[0, : batch.feature_lens[0]].to(device), chunk_frames)
    else:
        model(batch.features[:1].to(device), batch.feature_lens[:1].to(device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forward(
    model: Any, batch: Batch, device: torch.device, chunk_frames: int
) -> tuple[Tensor, Tensor]:
    features, feature_lens = batch.features.to(device), batch.feature_lens.to(device)
    if chunk_frames:
        log_probs, lens = _stream(model, features, feature_lens, chunk_frames)
    else:
        log_probs, lens = model(features, feature_lens)
    # the copy waits for the device, so the clock around this call needs no synchronisation
    return log_probs.float().cpu(), lens.to("cpu", torch.int64)


def _stream(
    model: Any, features: Tensor, feature_lens: Tensor, chunk_frames: int
) -> tuple[Tensor, Tensor]:
    """Send each utterance alone through ``step`` and ``flush``: (N, T', V), (N,)."""
    outputs = []
    for frames, length in zip(features, feature_lens.tolist(), strict=True):
        outputs.append(stream_utterance(model, frames[:length], chunk_frames))
    lens = torch.tensor([len(output) for output in outputs])
    return torch.nn.utils.rnn.pad_sequence(outputs, batch_first=True), lens


def stream_utterance(model: Any, frames: Tensor, chunk_frames: int) -> Tensor:
    """Send ``frames`` (T, F) through ``model.step()`` chunk by chunk: log-probabilities (T', V)."""
    state = model.init_state(1, frames.device)
    parts = []
    for chunk in frames.split(chunk_frames):
        log_probs, state = model.step(chunk.unsqueeze(0), state)  # (1, t', V)
        parts.append(log_probs[0])
    parts.append(model.flush(state)[0][0])
    return torch.cat(parts)


def _check_finite(log_probs: Tensor, lens: Tensor, ids: list[str]) -> None:
    for utterance, rows, length in zip(ids, log_probs, lens.tolist(), strict=True):
        values = rows[:length]
        # minus infinity is the log-probability of an impossible token
        wrong = torch.isnan(values) | (values == torch.inf)  # (T', V)
        if bool(wrong.any()):
            frame = int(wrong.any(dim=1).nonzero()[0])
            raise ModelError(
                f"utterance {utterance!r}: log-probabilities hold NaN or infinity from frame {frame} "
                f"of {length}; check its audio, or decode another checkpoint (decode.checkpoint)"
            )


def _check_new(ids: list[str], seen: dict[str, str]) -> None:
    repeated = [i for i in ids if i in seen] or [i for n, i in enumerate(ids) if i in ids[:n]]
    if repeated:
        raise DataError(f"utterance id {repeated[0]!r} occurs more than once in the split")
