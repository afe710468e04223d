"""The engine that runs everywhere: torch's CTC loss, and kaldi-decoder's search in C++.

kaldi-decoder holds Python's lock while it searches, so parallel decoding takes processes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import kaldi_decoder
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lmu_asr.fsa.arrays import LatticeArrays, from_lattice
from lmu_asr.fsa.engine import (
    Hypothesis,
    SearchOptions,
    check_vocabulary,
    feasible,
    greedy_hypothesis,
    search_inputs,
)
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.hypothesis import hypothesis_from_path
from lmu_asr.fsa.lattice import Lattice, make_lattice


class OpenFstEngine:
    """Loss by torch, search by kaldi-decoder over OpenFst graphs, on the CPU."""

    name = "openfst"

    def ctc_loss(
        self,
        log_probs: Tensor,
        lens: Tensor,
        targets: Sequence[Sequence[int]],
        reduction: str = "sum",
    ) -> Tensor:
        """See :meth:`lmu_asr.fsa.engine.Engine.ctc_loss`."""
        keep = torch.nonzero(feasible(lens, targets)).squeeze(1)
        losses = log_probs.new_zeros(len(targets))
        if len(keep) < len(targets):
            logging.warning("%d utterances without a CTC path", len(targets) - len(keep))
        if len(keep):
            kept = [targets[i] for i in keep.tolist()]
            flat = torch.tensor([token for target in kept for token in target], dtype=torch.int64)
            chosen = keep.to(log_probs.device)
            values = functional.ctc_loss(
                log_probs.index_select(0, chosen).transpose(0, 1),  # (N, T, V) -> (T, N, V)
                flat.to(log_probs.device),
                lens.cpu()[keep],
                torch.tensor([len(target) for target in kept], dtype=torch.int64),
                reduction="none",
            )
            losses = losses.index_copy(0, chosen, values)
        return losses if reduction == "none" else losses.sum()

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
        scaled = graph.scaled(options.lm_scale)
        found = []
        for scores in search_inputs(log_probs, lens, options, ids):
            lattice = best_path(scaled, scores, options)
            if lattice is None:
                found.append(greedy_hypothesis(scores, graph.lang, fallback=True))
            else:
                found.append(hypothesis_from_path(lattice.best_path(), graph, options))
        return found

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
        scaled = graph.scaled(options.lm_scale)
        inputs = search_inputs(log_probs, lens, options, ids)
        return [search_lattice(scaled, scores, options) for scores in inputs]


def best_path(graph: Graph, scores: np.ndarray, options: SearchOptions) -> Lattice | None:
    """Search one utterance, with a wider beam if no final state is reached; None if still not.

    Args:
        graph: scaled graph.
        scores: (T, V) float32 scaled acoustic scores.
        options: beams, and the scales to undo in the result.
    """
    for attempt in (options, options.wider()):
        settings = kaldi_decoder.FasterDecoderOptions(
            beam=attempt.search_beam, max_active=attempt.max_active
        )
        decoder = kaldi_decoder.FasterDecoder(graph.fst, settings)
        decoder.decode(kaldi_decoder.DecodableCtc(scores))
        if decoder.reached_final():
            _, lattice = decoder.get_best_path()
            return unscaled_lattice(from_lattice(lattice), options)
    return None


def search_lattice(graph: Graph, scores: np.ndarray, options: SearchOptions) -> Lattice | None:
    """Search one utterance for a lattice; arguments as for :func:`best_path`."""
    settings = kaldi_decoder.LatticeSimpleDecoderConfig(
        beam=options.search_beam, lattice_beam=options.lattice_beam
    )
    decoder = kaldi_decoder.LatticeSimpleDecoder(graph.fst, settings)
    if not decoder.decode(kaldi_decoder.DecodableCtc(scores)):
        return None
    _, raw = decoder.get_raw_lattice()
    return unscaled_lattice(from_lattice(raw), options)


def unscaled_lattice(arrays: LatticeArrays, options: SearchOptions) -> Lattice:
    """Turn kaldi-decoder's scaled costs into unscaled scores; label 0 becomes token -1."""
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
