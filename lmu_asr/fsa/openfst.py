"""The engine that runs everywhere: kaldi-decoder's search in C++.

kaldi-decoder holds Python's lock while it searches, so parallel decoding takes processes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Protocol, TypeVar

import kaldi_decoder
import numpy as np
from torch import Tensor

from lmu_asr.fsa.arrays import LatticeArrays, from_lattice
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.hypothesis import Hypothesis, greedy_hypothesis, hypothesis_from_path
from lmu_asr.fsa.inputs import check_vocabulary, search_inputs
from lmu_asr.fsa.lattice import Lattice, Path, make_lattice
from lmu_asr.fsa.memory import with_smaller_beams
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.guard import die_with_parent

T = TypeVar("T")
S = TypeVar("S", covariant=True)


class Search(Protocol[S]):
    """A search of one utterance over a scaled graph."""

    def __call__(self, fst: Any, scores: np.ndarray, options: SearchOptions) -> S:
        """Search ``scores`` (T, V)."""
        ...


class OpenFstEngine:
    """Search by kaldi-decoder over OpenFst graphs, on the CPU."""

    name = "openfst"

    def __init__(self, jobs: int = 1) -> None:
        """Make an engine that searches with ``jobs`` processes."""
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None
        self._pool_graph: Graph | None = None

    def decode(
        self,
        log_probs: Tensor,
        lens: Tensor,
        graph: Graph,
        options: SearchOptions,
        ids: Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """See :meth:`lmu_asr.fsa.engine.Engine.decode`."""
        check_vocabulary(log_probs, graph)
        inputs = search_inputs(log_probs, lens, options, ids)
        paths = self._map(best_path, graph, inputs, options)
        return [
            greedy_hypothesis(scores, graph.lang, fallback=True)
            if path is None
            else hypothesis_from_path(path, graph, options)
            for scores, path in zip(inputs, paths, strict=True)
        ]

    def lattices(
        self,
        log_probs: Tensor,
        lens: Tensor,
        graph: Graph,
        options: SearchOptions,
        ids: Sequence[str] | None = None,
    ) -> list[Lattice | None]:
        """See :meth:`lmu_asr.fsa.engine.Engine.lattices`."""
        check_vocabulary(log_probs, graph)
        inputs = search_inputs(log_probs, lens, options, ids)
        return self._map(search_lattice, graph, inputs, options)

    def _map(
        self, search: Search[T], graph: Graph, inputs: list[np.ndarray], options: SearchOptions
    ) -> list[T]:
        scaled = graph.scaled(options.lm_scale)
        if self.jobs == 1 or len(inputs) == 1:
            return [search(scaled.fst, scores, options) for scores in inputs]
        pool = self._pool_for(scaled)
        return list(pool.map(_in_worker, [(search, scores, options) for scores in inputs]))

    def close(self) -> None:
        """End the processes; the next search starts others."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def _pool_for(self, graph: Graph) -> ProcessPoolExecutor:
        """Processes that hold ``graph``, forked so that they share its memory."""
        if self._pool is None or self._pool_graph is not graph:
            self.close()
            _WORKER_GRAPH[0] = graph.fst
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.jobs, context, die_with_parent)
            self._pool_graph = graph
        return self._pool


# What a forked worker searches: set in the parent just before the fork, never sent.
_WORKER_GRAPH: list[Any] = [None]


def _in_worker(job: tuple[Search[T], np.ndarray, SearchOptions]) -> T:
    search, scores, options = job
    return search(_WORKER_GRAPH[0], scores, options)


def best_path(fst: Any, scores: np.ndarray, options: SearchOptions) -> Path | None:
    """Search one utterance, with a wider beam if no final state is reached; None if still not.

    Args:
        fst: ``kaldifst.StdConstFst`` with scaled costs.
        scores: (T, V) float32 scaled acoustic scores.
        options: beams, and the scales to undo in the result.
    """
    for attempt in (options, options.wider()):
        settings = kaldi_decoder.FasterDecoderOptions(
            beam=attempt.search_beam,
            max_active=attempt.max_active,
            # Kaldi aborts unless min_active < max_active
            min_active=min(20, attempt.max_active - 1),
        )
        decoder = kaldi_decoder.FasterDecoder(fst, settings)
        decoder.decode(kaldi_decoder.DecodableCtc(scores))
        if decoder.reached_final():
            _, lattice = decoder.get_best_path()
            return unscaled_lattice(from_lattice(lattice), options).best_path()
    return None


def search_lattice(fst: Any, scores: np.ndarray, options: SearchOptions) -> Lattice | None:
    """Search one utterance for a lattice; arguments as for :func:`best_path`.

    Where memory runs out the beams are made smaller. The best path of the lattice is the best of
    the search; what the lattice keeps beside it lies within ``lattice_beam``.
    """
    for attempt in (options, options.wider()):
        lattice = with_smaller_beams(lambda used: _raw_lattice(fst, scores, used), attempt)
        if lattice is not None:
            return unscaled_lattice(lattice, options)
    return None


def _raw_lattice(fst: Any, scores: np.ndarray, options: SearchOptions) -> LatticeArrays | None:
    settings = kaldi_decoder.LatticeSimpleDecoderConfig(
        beam=options.search_beam, lattice_beam=options.lattice_beam
    )
    decoder = kaldi_decoder.LatticeSimpleDecoder(fst, settings)
    if not decoder.decode(kaldi_decoder.DecodableCtc(scores)):  # no final state was reached
        return None
    _, raw = decoder.get_raw_lattice()
    return from_lattice(raw)


def unscaled_lattice(arrays: LatticeArrays, options: SearchOptions) -> Lattice:
    """Turn kaldi-decoder's scaled costs into unscaled scores; label 0 becomes token -1."""
    # a scale of 0 cannot be undone: the cost stays 0
    am_factor = -1.0 / (options.acoustic_scale or 1.0)
    lm_factor = -1.0 / (options.lm_scale or 1.0)
    graph_cost = arrays.arcs["graph"].astype(np.float64)
    return make_lattice(
        arrays.src,
        arrays.arcs["dst"],
        arrays.arcs["ilabel"] - 1,
        arrays.arcs["olabel"],
        arrays.arcs["acoustic"].astype(np.float64) * am_factor,
        graph_cost * lm_factor,
        arrays.final.astype(np.float64).sum(axis=1) * lm_factor,
        options.acoustic_scale,
        options.lm_scale,
    )
