"""The searches over one batch; :mod:`lmu_asr.decoding.methods` has them by name.

Legend: N batch, T' frames after subsampling, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lmu_asr.decoding.searches.context import ContextGraph
from lmu_asr.decoding.searches.greedy import greedy_search
from lmu_asr.decoding.searches.nbest import least_expected_error, scores_of
from lmu_asr.decoding.searches.ngram import NgramScorer
from lmu_asr.decoding.searches.prefix_beam import prefix_beam_search
from lmu_asr.decoding.searches.rescore import Exchange, rescore_lattice, rescore_paths
from lmu_asr.errors import GraphError
from lmu_asr.fsa.engine import Engine
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.hypothesis import Hypothesis, greedy_hypothesis, hypothesis_from_path
from lmu_asr.fsa.inputs import search_inputs
from lmu_asr.fsa.lattice import Lattice, Path
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang
from lmu_asr.models.head import Head


@dataclass(frozen=True)
class Inputs:
    """One batch, and what its search needs.

    Attributes:
        outputs: (N, T', S) float32 of the head; log-probabilities (N, T', V) for most searches.
        lens: (N,) int64 frames.
        lang: tokens and words.
        options: beams and scales.
        ids: utterance ids for messages.
        graph, engine: of graph searches.
        lm: the word n-gram of the graph: fused into prefix beam search, exchanged by rescoring.
        rescore_lm: the larger n-gram of the rescoring searches.
        context: hot words of prefix beam search, over tokens.
        head: of the model; None: one that scores frames.
        confidences: make lattices for one-best searches too, and word confidences from them.
    """

    outputs: Tensor
    lens: Tensor
    lang: Lang
    options: SearchOptions
    ids: Sequence[str] | None = None
    graph: Graph | None = None
    engine: Engine | None = None
    lm: NgramScorer | None = None
    rescore_lm: NgramScorer | None = None
    context: ContextGraph | None = None
    head: Head | None = None
    confidences: bool = False


def greedy(x: Inputs) -> list[Hypothesis]:
    """Best token of each frame, or what the head decodes greedily where it does not score frames.

    Raises:
        DataError: NaN or +infinity in the posteriors, naming the utterance.
    """
    if x.head is None or x.head.scores_frames:
        return greedy_search(x.outputs, x.lens, x.lang, x.options.blank_penalty, x.ids)
    return [
        Hypothesis(words=x.lang.decode(tokens).split(), tokens=tokens, times=[], score=0.0)
        for tokens in x.head.greedy(x.outputs, x.lens)
    ]


def prefix_beam(x: Inputs) -> list[Hypothesis]:
    """Prefix beam search, with the word n-gram and hot words where they are given."""
    return prefix_beam_search(x.outputs, x.lens, x.lang, x.options, x.lm, x.context, x.ids)


def one_best(x: Inputs) -> list[Hypothesis]:
    """The best path through the graph."""
    if x.confidences:
        return _from_lattices(x, Lattice.best_path)
    graph, engine = _graph(x)
    return engine.decode(x.outputs, x.lens, graph, x.options, x.ids)


def least_error(x: Inputs) -> list[Hypothesis]:
    """Of the distinct word sequences of the lattice, the one with the least expected word error."""

    def choose(lattice: Lattice) -> Path:
        paths = lattice.nbest(x.options.nbest)
        scores = scores_of(paths, x.options.acoustic_scale, x.options.lm_scale)
        return paths[least_expected_error(paths, scores)]

    return _from_lattices(x, choose)


def rescored_list(x: Inputs) -> list[Hypothesis]:
    """The best of the distinct word sequences once the graph's n-gram is exchanged for a larger one."""
    exchange = _exchange(x)

    def choose(lattice: Lattice) -> Path:
        paths = rescore_paths(lattice.nbest(x.options.nbest), exchange)
        scores = scores_of(paths, x.options.acoustic_scale, x.options.lm_scale)
        return paths[int(np.argmax(scores))]

    return _from_lattices(x, choose)


def rescored_lattice(x: Inputs) -> list[Hypothesis]:
    """The best path of the whole lattice once the graph's n-gram is exchanged for a larger one."""
    exchange = _exchange(x)
    return _from_lattices(x, lambda lattice: rescore_lattice(lattice, exchange).best_path())


def nbest_lists(
    lattices: Sequence[Lattice | None], graph: Graph, options: SearchOptions
) -> list[list[Hypothesis]]:
    """Distinct word sequences of each lattice, best first; empty where there is no lattice."""
    return [
        [hypothesis_from_path(path, graph, options) for path in lattice.nbest(options.nbest)]
        if lattice is not None
        else []
        for lattice in lattices
    ]


def _from_lattices(x: Inputs, choose: Callable[[Lattice], Path]) -> list[Hypothesis]:
    """The chosen path of each lattice; greedy where the search reached no end of the graph."""
    graph, engine = _graph(x)
    lattices = engine.lattices(x.outputs, x.lens, graph, x.options, x.ids)
    inputs = search_inputs(x.outputs, x.lens, x.options, x.ids)
    return [
        greedy_hypothesis(scores, x.lang, fallback=True)
        if lattice is None
        else _hypothesis(choose(lattice), lattice, graph, x.options)
        for scores, lattice in zip(inputs, lattices, strict=True)
    ]


def _hypothesis(path: Path, lattice: Lattice, graph: Graph, options: SearchOptions) -> Hypothesis:
    hypothesis = hypothesis_from_path(path, graph, options)
    if graph.kind != "H":
        hypothesis.confidences = lattice.confidences(path)
    return hypothesis


def _graph(x: Inputs) -> tuple[Graph, Engine]:
    if x.graph is None or x.engine is None:
        raise GraphError("this search needs a graph and an engine")
    return x.graph, x.engine


def _exchange(x: Inputs) -> Exchange:
    if x.lm is None or x.rescore_lm is None:
        raise GraphError(
            "rescoring needs the graph's language model and a larger one: set lm.rescore_order and "
            "run the graph stage"
        )
    return Exchange(x.lm, x.rescore_lm, x.lang)
