"""Forced alignment of a whole split with a trained model: CTM files and TextGrids."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lmu_asr.config import Config
from lmu_asr.data.batches.loaders import build_eval_loader
from lmu_asr.decoding.align import Alignment, align_batch
from lmu_asr.decoding.posteriors import compute_posteriors
from lmu_asr.decoding.times import write_ctm, write_textgrid
from lmu_asr.decoding.trained import load_trained
from lmu_asr.errors import DataError, LangError
from lmu_asr.files import atomic_write_text
from lmu_asr.lang.lang import Lang

NAMED = 5


@dataclass
class SplitAlignment:
    """Alignments by utterance id, and why others could not be aligned.

    ``frame_seconds`` is the length of one frame after subsampling.
    """

    frame_seconds: float
    alignments: dict[str, Alignment] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def write(self, out: Path, split: str) -> None:
        """Write word and token CTM, one TextGrid an utterance, and the list of refusals."""
        out.mkdir(parents=True, exist_ok=True)
        for tier in ("words", "tokens"):
            spans = {name: getattr(found, tier) for name, found in self.alignments.items()}
            write_ctm(out / f"align-{split}-{tier}.ctm", spans, self.frame_seconds)
        for name, found in self.alignments.items():
            # an id may hold slashes, which would make directories
            path = out / f"textgrid-{split}" / f"{name.replace('/', '_')}.TextGrid"
            tiers = {"words": found.words, "tokens": found.tokens}
            write_textgrid(path, tiers, len(found.path), self.frame_seconds)
        lines = [f"{name}\t{reason}\n" for name, reason in self.refused.items()]
        atomic_write_text(out / f"align-{split}-refused.txt", "".join(lines))


def align_split(
    config: Config,
    exp_dir: Path,
    data_dir: Path,
    lang_dir: Path,
    split: str,
    device: torch.device | str = "cpu",
) -> SplitAlignment:
    """Align every utterance of a split with its transcript.

    Args:
        config: the resolved configuration; ``decode.checkpoint`` names the model.
        exp_dir: experiment directory with the checkpoint.
        data_dir: directory of ``<split>_cuts.jsonl.gz``.
        lang_dir: lang directory.
        split: name of the split.
        device: where the model runs.

    Utterances with too few frames, or with words that the lexicon lacks, are listed in ``refused``.

    Raises:
        CheckpointError, LangError, DataError: an input that is missing or broken.
    """
    lang = Lang.load(lang_dir)
    model = load_trained(config, exp_dir, lang).model
    loader = build_eval_loader(
        data_dir / f"{split}_cuts.jsonl.gz", config.decode.max_duration, num_workers=0
    )
    subsampling = model.encoder.subsampling_factor
    result = SplitAlignment(subsampling * config.features.frame_shift_ms / 1000.0)
    posteriors, texts = compute_posteriors(model, loader, device, name=f"encoder, {split}")
    with posteriors:
        for batch in posteriors:
            for row, name in enumerate(batch.ids):
                # one by one, so that an utterance that fails does not take its batch along
                one = slice(row, row + 1)
                try:
                    found = align_batch(
                        batch.log_probs[one], batch.lens[one], [texts[name]], lang, [name]
                    )
                    result.alignments[name] = found[0]
                except (DataError, LangError) as error:
                    result.refused[name] = str(error)
    _report(result, split)
    return result


def _report(result: SplitAlignment, split: str) -> None:
    logging.info("%s: %d utterances aligned", split, len(result.alignments))
    if result.refused:
        first = "; ".join(list(result.refused.values())[:NAMED])
        logging.warning("%s: %d utterances not aligned: %s", split, len(result.refused), first)
