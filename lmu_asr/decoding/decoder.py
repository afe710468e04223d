"""Searches over the log-probabilities of a whole split, at given scales.

Shapes: N batch, T frames, T' frames after subsampling, F features, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lmu_asr.decoding.context import ContextGraph
from lmu_asr.decoding.ngram import NgramScorer
from lmu_asr.decoding.posteriors import (
    EvalBatch,
    PosteriorBatch,
    Posteriors,
    compute_posteriors,
)
from lmu_asr.decoding.search import decode_batch
from lmu_asr.decoding.tune import Scales
from lmu_asr.errors import LangError
from lmu_asr.fsa.engine import Engine
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.hypothesis import Hypothesis
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang
from lmu_asr.progress import progress
from lmu_asr.scoring.record import Cost

GRAPH_OF_METHOD = {
    "H": "H",
    "HL": "HL",
    "HLG": "HLG",
    "nbest": "HLG",
    "nbest_rescore": "HLG",
    "lattice_rescore": "HLG",
}
RESCORING = ("nbest_rescore", "lattice_rescore")
TOKEN_METHODS = ("greedy", "H", "prefix_beam")


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
    rescoring exchanges for ``rescore_lm``; ``context``: hot words of prefix beam search. None for
    none.
    """

    lang: Lang
    graphs: Mapping[str, Graph]
    engine: Engine
    options: SearchOptions
    lm: NgramScorer | None = None
    rescore_lm: NgramScorer | None = None
    context: ContextGraph | None = None

    def search(self, posteriors: Posteriors, method: str, scales: Scales) -> SplitDecode:
        """Search every utterance of a split with one method at given scales."""
        found: dict[str, Hypothesis] = {}
        seconds = 0.0
        for batch in progress(posteriors, method, total=len(posteriors), unit="batch"):
            start = time.perf_counter()
            hypotheses = self.search_batch(batch, method, scales)
            seconds += time.perf_counter() - start
            found.update(zip(batch.ids, hypotheses, strict=True))
        return SplitDecode(found, seconds)

    def search_batch(self, batch: PosteriorBatch, method: str, scales: Scales) -> list[Hypothesis]:
        """Search the utterances of one batch; see :func:`lmu_asr.decoding.search.decode_batch`."""
        return decode_batch(
            batch.log_probs,
            batch.lens,
            method,
            self.lang,
            self.graphs.get(GRAPH_OF_METHOD.get(method, "")),
            self.engine,
            replace(self.options, **vars(scales)),
            ids=batch.ids,
            lm=self.lm,
            rescore_lm=self.rescore_lm,
            context=self.context,
        )

    def unit(self, method: str) -> str:
        """What the hypotheses of ``method`` consist of: ``phone`` or ``word``."""
        return "phone" if self.lang.unit == "phone" and method in TOKEN_METHODS else "word"

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


def decode_split(
    model: Any,
    loader: Iterable[EvalBatch],
    method: str,
    lang: Lang,
    graph: Graph | None,
    engine: Engine,
    options: SearchOptions,
    device: torch.device | str = "cpu",
    chunk_frames: int = 0,
) -> tuple[list[tuple[str, str, Hypothesis]], Cost]:
    """Decode one split with one method at the scales of ``options``.

    Args:
        model: a ``SpeechModel``.
        loader: batches of the split.
        method: ``greedy``, ``prefix_beam``, ``H``, ``HL``, ``HLG`` or one of the n-best methods.
        lang, graph, engine, options: as the search takes them; ``graph`` None where it needs none.
        device: where the model runs.
        chunk_frames: above 0: through ``model.step()`` in chunks of this many input frames.

    Returns:
        (id, reference, hypothesis) in the loader's order, and audio, encoder and search seconds.
    """
    graphs = {graph.kind: graph} if graph is not None else {}
    scales = Scales(options.acoustic_scale, options.lm_scale, options.blank_penalty)
    posteriors, texts = compute_posteriors(model, loader, device, chunk_frames)
    with posteriors:
        found = Decoder(lang, graphs, engine, options).search(posteriors, method, scales)
        cost = Cost(
            audio_seconds=posteriors.audio_seconds,
            encoder_seconds=posteriors.encoder_seconds,
            search_seconds=found.search_seconds,
            threads=torch.get_num_threads(),
        )
    return [(i, texts[i], found.hypotheses[i]) for i in texts], cost
