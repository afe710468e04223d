"""N-gram language models: estimate, read, write, prune, score. The one door to the modules behind."""

from __future__ import annotations

from collections.abc import Iterable

from lmu_asr.lang.arpa import read_arpa, write_arpa
from lmu_asr.lang.kneser_ney import FALLBACK_DISCOUNTS, train_ngram, train_token_ngram
from lmu_asr.lang.prune import prune
from lmu_asr.lang.trie import BOS, EOS, UNK, Level, NgramModel, Perplexity

__all__ = [
    "BOS",
    "EOS",
    "FALLBACK_DISCOUNTS",
    "UNK",
    "Level",
    "NgramModel",
    "Perplexity",
    "perplexity",
    "prune",
    "read_arpa",
    "train_ngram",
    "train_token_ngram",
    "write_arpa",
]


def perplexity(model: NgramModel, sentences: Iterable[str]) -> Perplexity:
    """Score sentences; see :meth:`NgramModel.perplexity`."""
    return model.perplexity(sentences)
