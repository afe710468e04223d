"""One door to every search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from lmu_asr.decoding.context import ContextGraph
from lmu_asr.decoding.greedy import greedy_search
from lmu_asr.decoding.nbest import least_expected_error, scores_of
from lmu_asr.decoding.ngram import NgramScorer
from lmu_asr.decoding.prefix_beam import prefix_beam_search
from lmu_asr.decoding.rescore import Exchange, rescore_lattice, rescore_paths
from lmu_asr.errors import ConfigError, GraphError
from lmu_asr.fsa.engine import Engine
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.hypothesis import Hypothesis, greedy_hypothesis, hypothesis_from_path
from lmu_asr.fsa.inputs import search_inputs
from lmu_asr.fsa.lattice import Lattice, Path
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang

ONE_BEST = ("H", "HL", "HLG")
LATTICE = ("nbest", "nbest_rescore", "lattice_rescore")
RESCORE = ("nbest_rescore", "lattice_rescore")
METHODS = ("greedy", "prefix_beam", *ONE_BEST, *LATTICE)


def decode_batch(
    log_probs: Tensor,
    lens: Tensor,
    method: str,
    lang: Lang,
    graph: Graph | None,
    engine: Engine | None,
    options: SearchOptions,
    *,
    ids: Sequence[str] | None = None,
    lm: NgramScorer | None = None,
    rescore_lm: NgramScorer | None = None,
    context: ContextGraph | None = None,
    confidences: bool = False,
) -> list[Hypothesis]:
    """Search a batch with one method.

    ``nbest`` takes, from the distinct word sequences of the lattice, the one with the least
    expected word error. ``nbest_rescore`` and ``lattice_rescore`` exchange the graph's n-gram for
    a larger one, on the list and on the whole lattice, and take the best path.

    Args:
        log_probs: (N, T, V) float32.
        lens: (N,) int64 frames.
        method: one of ``METHODS``.
        lang: tokens and words.
        graph: the graph of a graph method.
        engine: k2 or openfst, for graph methods.
        options: beams and scales.
        ids: utterance ids for messages.
        lm: the word n-gram of the graph: fused into prefix beam search, exchanged by rescoring.
        rescore_lm: the larger n-gram of the rescoring methods.
        context: hot words of prefix beam search, over tokens.
        confidences: make lattices for 1best too, and word confidences from them.

    Raises:
        ConfigError: unknown method.
        DataError: NaN or +infinity in the posteriors, naming the utterance.
        GraphError: a graph or language model is missing that the method needs.
    """
    if method == "greedy":
        return greedy_search(log_probs, lens, lang, options.blank_penalty, ids)
    if method == "prefix_beam":
        return prefix_beam_search(log_probs, lens, lang, options, lm, context, ids)
    if method not in METHODS:
        raise ConfigError(f"search '{method}': want one of {', '.join(METHODS)}")
    if graph is None or engine is None:
        raise GraphError(f"search {method} needs a graph and an engine")
    if method in ONE_BEST and not confidences:
        return engine.decode(log_probs, lens, graph, options, ids)
    choose = _chooser(method, lang, options, lm, rescore_lm)
    lattices = engine.lattices(log_probs, lens, graph, options, ids)
    inputs = search_inputs(log_probs, lens, options, ids)
    return [
        greedy_hypothesis(scores, lang, fallback=True)
        if lattice is None
        else _hypothesis(choose(lattice), lattice, graph, options)
        for scores, lattice in zip(inputs, lattices, strict=True)
    ]


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


def _hypothesis(path: Path, lattice: Lattice, graph: Graph, options: SearchOptions) -> Hypothesis:
    hypothesis = hypothesis_from_path(path, graph, options)
    if graph.kind != "H":
        hypothesis.confidences = lattice.confidences(path)
    return hypothesis


def _chooser(
    method: str,
    lang: Lang,
    options: SearchOptions,
    lm: NgramScorer | None,
    rescore_lm: NgramScorer | None,
) -> Callable[[Lattice], Path]:
    """The function that picks a path from a lattice."""
    if method in ONE_BEST:
        return Lattice.best_path
    if method == "nbest":
        return lambda lattice: _least_error(lattice.nbest(options.nbest), options)
    if lm is None or rescore_lm is None:
        raise GraphError(
            f"search {method} needs the graph's language model and a larger one: set"
            " lm.rescore_order and run the graph stage"
        )
    exchange = Exchange(lm, rescore_lm, lang)
    if method == "lattice_rescore":
        return lambda lattice: rescore_lattice(lattice, exchange).best_path()
    return lambda lattice: _rescored(lattice.nbest(options.nbest), exchange, options)


def _least_error(paths: list[Path], options: SearchOptions) -> Path:
    scores = scores_of(paths, options.acoustic_scale, options.lm_scale)
    return paths[least_expected_error(paths, scores)]


def _rescored(paths: list[Path], exchange: Exchange, options: SearchOptions) -> Path:
    paths = rescore_paths(paths, exchange)
    return paths[int(np.argmax(scores_of(paths, options.acoustic_scale, options.lm_scale)))]
