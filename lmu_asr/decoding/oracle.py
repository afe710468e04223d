"""The error rate of the best choice that a list or a lattice would allow.

It bounds what any rescoring of the same search can reach. It is measured after the scales are
chosen, and its time is not part of the search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from lmu_asr.decoding.decoder import Decoder
from lmu_asr.decoding.methods import find_method
from lmu_asr.decoding.posteriors import PosteriorBatch, Posteriors
from lmu_asr.decoding.searches.nbest import lattice_oracle_errors, oracle_errors
from lmu_asr.decoding.searches.over_graphs import nbest_lists
from lmu_asr.decoding.tune import Scales
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.lattice import Lattice
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.scoring.score import ErrorCounts, split_words


def oracle_rate(
    decoder: Decoder,
    posteriors: Posteriors,
    method: str,
    scales: Scales,
    texts: Mapping[str, str],
) -> float | None:
    """Return the oracle word error rate in per cent; None for methods that keep one path.

    Args:
        decoder: engine and graphs.
        posteriors: log-probabilities of the split.
        method: n-best methods: the best of ``nbest`` paths; whole-lattice rescoring: the best path
            of the lattice.
        scales: the chosen scales.
        texts: reference of each utterance id.
    """
    row = find_method(method)
    if not row.keeps:
        return None
    graph = decoder.graphs[row.graph]
    options = replace(decoder.options, **vars(scales))
    errors = words = 0
    for batch in posteriors:
        refs = [split_words(texts[i]) for i in batch.ids]
        found = _batch_errors(decoder, batch, row.keeps, graph, options, refs)
        errors += sum(found)
        words += sum(map(len, refs))
    # the rate does not depend on the kind of error
    rate = ErrorCounts(substitutions=errors, length=words).rate
    return rate if math.isfinite(rate) else None


def _batch_errors(
    decoder: Decoder,
    batch: PosteriorBatch,
    keeps: str,
    graph: Graph,
    options: SearchOptions,
    refs: list[list[str]],
) -> list[int]:
    lattices = decoder.engine.lattices(batch.log_probs, batch.lens, graph, options, batch.ids)
    if keeps == "lattice":
        return [_in_lattice(decoder, *pair) for pair in zip(lattices, refs, strict=True)]
    lists = nbest_lists(lattices, graph, options)
    return [
        oracle_errors([hypothesis.words for hypothesis in hypotheses], ref)
        for hypotheses, ref in zip(lists, refs, strict=True)
    ]


def _in_lattice(decoder: Decoder, lattice: Lattice | None, ref: list[str]) -> int:
    if lattice is None:
        return len(ref)
    unknown = -1  # matches no word of a lattice
    return lattice_oracle_errors(lattice, [decoder.lang.word_ids.get(w, unknown) for w in ref])
