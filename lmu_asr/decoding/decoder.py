"""Searches over the log-probabilities of a whole split, at given scales.

Shapes: N batch, T frames, T' frames after subsampling, F features, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lmu_asr.decoding.methods import find_method
from lmu_asr.decoding.posteriors import PosteriorBatch, Posteriors
from lmu_asr.decoding.searches.context import ContextGraph
from lmu_asr.decoding.searches.ngram import NgramScorer
from lmu_asr.decoding.searches.over_graphs import Inputs
from lmu_asr.decoding.tune import Scales
from lmu_asr.errors import LangError
from lmu_asr.fsa.engine import Engine
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.hypothesis import Hypothesis
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang
from lmu_asr.models.head import Head
from lmu_asr.progress import progress


@dataclass(frozen=True)
class SplitDecode:
    """Hypotheses of one split by one search, and what the search cost."""

    hypotheses: dict[str, Hypothesis]
    search_seconds: float

    @property
    def fallbacks(self) -> int:
        """Utterances whose lattice was empty, decoded greedily in its place."""
        return sum(bool(h.fallback) for h in self.hypotheses.values())


@dataclass(frozen=True)
class Decoder:
    """What every search needs beside log-probabilities.

    ``graphs`` by kind; ``lm``: word n-gram of the graphs, which prefix beam search fuses and
    rescoring exchanges for ``rescore_lm``; ``context``: hot words of prefix beam search; ``head``: of
    the model. None for none.
    """

    lang: Lang
    graphs: Mapping[str, Graph]
    engine: Engine
    options: SearchOptions
    lm: NgramScorer | None = None
    rescore_lm: NgramScorer | None = None
    context: ContextGraph | None = None
    head: Head | None = None

    def search(self, posteriors: Posteriors, method: str, scales: Scales) -> SplitDecode:
        """Search every utterance of a split with one method at given scales."""
        found: dict[str, Hypothesis] = {}
        seconds = 0.0
        for batch in progress(posteriors, method, total=len(posteriors), unit="batch"):
            # inside the loop: reading a batch back from disk is not the search's time
            start = time.perf_counter()
            hypotheses = self.search_batch(batch, method, scales)
            seconds += time.perf_counter() - start
            found.update(zip(batch.ids, hypotheses, strict=True))
        return SplitDecode(found, seconds)

    def search_batch(self, batch: PosteriorBatch, method: str, scales: Scales) -> list[Hypothesis]:
        """Search the utterances of one batch.

        Raises:
            ConfigError: unknown method.
            DataError: NaN or +infinity in the posteriors, naming the utterance.
            GraphError: a graph or language model is missing that the method needs.
        """
        row = find_method(method)
        inputs = Inputs(
            batch.log_probs,
            batch.lens,
            self.lang,
            replace(self.options, **vars(scales)),
            batch.ids,
            # greedy and prefix beam search have none
            self.graphs.get(row.graph),
            self.engine,
            self.lm,
            self.rescore_lm,
            self.context,
            self.head,
        )
        return row.search(inputs)

    def unit(self, method: str) -> str:
        """What the hypotheses of ``method`` consist of: ``phone`` or ``word``."""
        return "phone" if self.lang.unit == "phone" and find_method(method).finds_tokens else "word"

    def hypothesis_text(self, method: str, hypothesis: Hypothesis) -> str:
        """Return the words, or phones, of a hypothesis with spaces between."""
        if self.unit(method) == "phone":
            return self.lang.token_text(hypothesis.tokens)
        return " ".join(hypothesis.words)

    def reference_text(self, method: str, text: str) -> str:
        """Return the reference in the unit of the hypotheses.

        A word without pronunciation stands for itself in a phone reference, and counts as an error.
        """
        if self.unit(method) == "word":
            return text
        return " ".join(self._phones(word) for word in text.split())

    def _phones(self, word: str) -> str:
        try:
            return self.lang.phones_of_text(word)
        except LangError:
            return word
