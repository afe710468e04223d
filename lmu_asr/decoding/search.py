"""One door to every search."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lmu_asr.decoding.context import ContextGraph
from lmu_asr.decoding.greedy import greedy_search
from lmu_asr.decoding.ngram import NgramScorer
from lmu_asr.decoding.prefix_beam import prefix_beam_search
from lmu_asr.errors import ConfigError, GraphError
from lmu_asr.fsa.engine import Engine, Hypothesis, SearchOptions
from lmu_asr.fsa.graphs import Graph
from lmu_asr.lang.lang import Lang

ONE_BEST = ("H", "HL", "HLG")


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
    context: ContextGraph | None = None,
) -> list[Hypothesis]:
    """Search a batch with one method.

    Args:
        log_probs: (N, T, V) float32.
        lens: (N,) int64 frames.
        method: ``greedy``, ``prefix_beam``, ``H``, ``HL`` or ``HLG``.
        lang: tokens and words.
        graph: the graph of a graph method.
        engine: k2 or openfst, for graph methods.
        options: beams and scales.
        ids: utterance ids for messages.
        lm: word n-gram fused into prefix beam search.
        context: hot words of prefix beam search, over tokens.

    Raises:
        ConfigError: unknown method.
        DataError: NaN or +infinity in the posteriors, naming the utterance.
        GraphError: no graph where one is needed, or one of another kind.
    """
    if method == "greedy":
        return greedy_search(log_probs, lens, lang, options.blank_penalty, ids)
    if method == "prefix_beam":
        return prefix_beam_search(log_probs, lens, lang, options, lm, context, ids)
    if method not in ONE_BEST:
        raise ConfigError(f"search '{method}': want greedy, prefix_beam, {', '.join(ONE_BEST)}")
    if graph is None or engine is None:
        raise GraphError(f"search {method} needs a graph and an engine")
    return engine.decode(log_probs, lens, graph, options, ids)
