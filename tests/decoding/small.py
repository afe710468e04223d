"""A small lang with word boundaries, and posteriors, for searches without graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lmu_asr.lang.lang import BOUNDARY, Lang


def char_lang(letters: str, words: list[str]) -> Lang:
    """Characters behind a boundary token, as prepared by unit char; nothing on disk."""
    tokens = ["<blk>", BOUNDARY, *letters, "#0"]
    lexicon = [(word, (BOUNDARY, *word)) for word in sorted(words)]
    symbols = ["<eps>", *sorted(words), "#0", "<s>", "</s>"]
    return Lang(Path("small"), "char", tokens, symbols, lexicon, fingerprint="small")


def log_probs(rng: np.random.Generator, frames: int, vocab: int, scale: float = 2.0) -> np.ndarray:
    """(T, V) float32 log probabilities."""
    logits = torch.from_numpy(rng.normal(size=(frames, vocab)) * scale)
    return torch.log_softmax(logits, -1).float().numpy()
