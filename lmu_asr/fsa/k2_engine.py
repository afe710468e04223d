"""The engine over k2: differentiable losses on graphs, and search in batches on CPU or GPU.

k2 keeps no epsilon apart from the blank: a graph of OpenFst is converted by removing its epsilons
(same best paths) and numbering tokens from the blank, 0. Legend: N batch, T frames, V vocabulary.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import k2
import numpy as np
import torch
from torch import Tensor

from lmu_asr.files import atomic_path, sha256_file
from lmu_asr.fsa.arrays import FstArrays
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.hypothesis import Hypothesis, greedy_hypothesis, hypothesis_from_path
from lmu_asr.fsa.inputs import check_vocabulary, feasible, search_inputs
from lmu_asr.fsa.lattice import Lattice, make_lattice
from lmu_asr.fsa.memory import is_memory_error, memory_limit, with_smaller_beams
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.fsa.training_graphs import pronunciation_graph
from lmu_asr.lang.lang import Lang

LOSS_BEAM = 500.0
# as icefall's decoding scripts
MIN_ACTIVE = 30


class K2Engine:
    """Loss and search by k2, on the device of the posteriors."""

    name = "k2"

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, str], Any] = {}

    def ctc_loss(
        self,
        log_probs: Tensor,
        lens: Tensor,
        targets: Sequence[Sequence[int]],
    ) -> Tensor:
        """See :meth:`lmu_asr.fsa.engine.LossEngine.ctc_loss`."""
        keep = torch.nonzero(feasible(lens, targets)).squeeze(1)
        graphs = k2.ctc_graph([list(targets[i]) for i in keep.tolist()]) if len(keep) else None
        return self._loss(log_probs, lens, keep, graphs)

    def graph_ctc_loss(
        self,
        log_probs: Tensor,
        lens: Tensor,
        texts: Sequence[str],
        lang: Lang,
    ) -> Tensor:
        """See :meth:`lmu_asr.fsa.engine.LossEngine.graph_ctc_loss`."""
        parts = [pronunciation_graph(text.split(), lang) for text in texts]
        shortest = torch.tensor([part.min_frames for part in parts])
        keep = torch.nonzero(lens.cpu() >= shortest).squeeze(1)
        fsas = [_fsa(parts[i].arrays) for i in keep.tolist()]
        return self._loss(log_probs, lens, keep, k2.create_fsa_vec(fsas) if fsas else None)

    def _loss(self, log_probs: Tensor, lens: Tensor, keep: Tensor, graphs: Any) -> Tensor:
        """Loss of the utterances ``keep``, zero for the others; k2 wants them longest first."""
        losses = log_probs.new_zeros(len(lens))
        if len(keep) < len(lens):
            logging.warning(
                "%d utterances have too few frames for their tokens: no CTC path, loss 0",
                len(lens) - len(keep),
            )
        if graphs is not None:
            order = torch.argsort(lens.cpu()[keep], descending=True, stable=True)
            dense = _dense(log_probs, lens, keep[order])
            graphs = k2.index_fsa(graphs, order.to(torch.int32)).to(log_probs.device)
            values = k2.ctc_loss(
                graphs, dense, output_beam=LOSS_BEAM, reduction="none", use_double_scores=True
            )
            chosen = keep[order].to(log_probs.device)
            losses = losses.index_copy(0, chosen, values.to(losses.dtype))
        return losses

    def decode(
        self,
        log_probs: Tensor,
        lens: Tensor,
        graph: Graph,
        options: SearchOptions,
        ids: Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """See :meth:`lmu_asr.fsa.engine.Engine.decode`."""
        inputs = search_inputs(log_probs, lens, options, ids)
        found: list[Lattice | None] = self._search(log_probs, inputs, graph, options, True)
        return [
            greedy_hypothesis(scores, graph.lang, fallback=True)
            if lattice is None
            else hypothesis_from_path(lattice.best_path(), graph, options)
            for scores, lattice in zip(inputs, found, strict=True)
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
        inputs = search_inputs(log_probs, lens, options, ids)
        return self._search(log_probs, inputs, graph, options, False)

    def _search(
        self,
        log_probs: Tensor,
        inputs: list[np.ndarray],
        graph: Graph,
        options: SearchOptions,
        best: bool,
    ) -> list[Lattice | None]:
        """Search all, then those that found no path once more with wider beams."""
        check_vocabulary(log_probs, graph)
        fsa = self.graph(graph, log_probs.device, options.lm_scale)
        found: list[Lattice | None] = [None] * len(inputs)
        for attempt in (options, options.wider()):
            todo = [i for i, item in enumerate(found) if item is None and len(inputs[i])]
            if todo:
                scores = [inputs[i] for i in todo]
                lattices = _lattices(fsa, scores, log_probs.device, attempt, options, best)
                for index, lattice in zip(todo, lattices, strict=True):
                    found[index] = lattice
        return found

    def graph(self, graph: Graph, device: torch.device, lm_scale: float) -> Any:
        """Return ``graph`` as a k2 FsaVec on ``device`` with its scores times ``lm_scale``."""
        key = (id(graph), str(device))
        if key not in self._graphs:
            # the graph is kept too: the id of a freed one may be given to another
            self._graphs[key] = (graph, k2_graph(graph).to(device))
        fsa = self._graphs[key][1]
        # k2 keeps scores within the arcs: without a copy the cached graph would be scaled
        scaled = k2.Fsa(fsa.arcs.clone(), aux_labels=fsa.aux_labels)
        scaled.scores = fsa.scores * (1.0 if graph.kind == "H" else lm_scale)
        # k2 carries attributes through the search: the rest of an arc's score is the acoustic part
        scaled.lm_scores = scaled.scores.clone()
        return scaled


def k2_graph(graph: Graph) -> Any:
    """Return ``graph`` as an epsilon-free, arc-sorted k2 FsaVec; cached beside the OpenFst file.

    The cache, ``<name>.k2.pt``, holds tensors alone: arcs, row splits and values of the output
    labels, and the SHA-256 of the OpenFst file, so that a new graph makes a new cache.
    """
    cache = graph.path.with_suffix(".k2.pt") if graph.path is not None else None
    digest = sha256_file(graph.path) if graph.path is not None else ""
    if cache is not None and cache.is_file():
        stored = torch.load(cache, map_location="cpu", weights_only=True)
        if stored["sha256"] == digest:
            labels = k2.RaggedTensor(
                k2.ragged.create_ragged_shape2(stored["row_splits"]), stored["labels"]
            )
            return k2.create_fsa_vec([k2.Fsa(stored["arcs"], aux_labels=labels)])
    fsa = _without_epsilons(graph.arrays)
    if cache is not None:
        stored = {
            "sha256": digest,
            "arcs": fsa.arcs.values()[:, :4],
            "row_splits": fsa.aux_labels.shape.row_splits(1),
            "labels": fsa.aux_labels.values,
        }
        with atomic_path(cache) as temporary:
            torch.save(stored, temporary)
    return k2.create_fsa_vec([fsa])


def _without_epsilons(arrays: FstArrays) -> Any:
    fsa = _fsa(arrays)
    fsa = k2.connect(k2.remove_epsilon(fsa))
    fsa = k2.arc_sort(fsa)
    # removing epsilons makes word labels ragged: axes [arc][word], epsilons among them
    fsa.aux_labels = fsa.aux_labels.remove_values_eq(0)
    arcs = fsa.arcs.values().clone()
    # back to tokens with the blank as 0; -1 marks k2's arcs to the final state
    arcs[:, 2] = torch.where(arcs[:, 2] > 0, arcs[:, 2] - 1, arcs[:, 2])
    return k2.Fsa(arcs, aux_labels=fsa.aux_labels)


def _fsa(arrays: FstArrays) -> Any:
    """A k2 Fsa with the labels of ``arrays``; final costs become arcs to one last state."""
    final = np.flatnonzero(np.isfinite(arrays.final))
    last = arrays.num_states
    src = np.concatenate([arrays.src, final])
    columns = [
        src,
        np.concatenate([arrays.arcs["dst"], np.full(len(final), last)]),
        np.concatenate([arrays.arcs["ilabel"], np.full(len(final), -1)]),
        -np.concatenate([arrays.arcs["weight"], arrays.final[final]]).astype(np.float32),
    ]
    olabel = np.concatenate([arrays.arcs["olabel"], np.full(len(final), -1)])
    order = np.argsort(src, kind="stable")
    if arrays.start != 0:
        # k2 takes state 0 as the start
        swap = np.arange(last + 1)
        swap[[0, arrays.start]] = [arrays.start, 0]
        columns[:2] = [swap[columns[0]], swap[columns[1]]]
        order = np.argsort(columns[0], kind="stable")
    arcs = np.stack([c[order].astype(np.int32) for c in columns[:3]], axis=1)
    # k2's arcs are rows of four int32, the last one the bits of a float32
    scores = columns[3][order].view(np.int32)[:, None]
    table = torch.from_numpy(np.concatenate([arcs, scores], axis=1))
    return k2.Fsa(table, aux_labels=torch.from_numpy(olabel[order].astype(np.int32)))


def _dense(log_probs: Tensor, lens: Tensor, chosen: Tensor) -> Any:
    # DenseFsaVec wants its segments on the CPU: rows of (utterance, first frame, frames)
    durations = lens.cpu()[chosen]
    segments = torch.stack([chosen, torch.zeros_like(chosen), durations], dim=1)
    return k2.DenseFsaVec(log_probs.float(), segments.to(torch.int32))


def _lattices(
    fsa: Any,
    inputs: list[np.ndarray],
    device: torch.device,
    attempt: SearchOptions,
    options: SearchOptions,
    best: bool,
) -> list[Lattice | None]:
    """Search; where memory runs out, in halves, and a single utterance with smaller beams."""

    def search(used: SearchOptions) -> list[Lattice | None]:
        lattices = _intersect(fsa, inputs, device, used)
        if best:
            lattices = k2.shortest_path(lattices, use_double_scores=True)
        return _split(lattices, options)

    limit = 0 if device.type == "cuda" else None  # a GPU's address space is not memory
    if len(inputs) == 1:
        return with_smaller_beams(search, attempt, limit)
    try:
        with memory_limit(limit):
            return search(attempt)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
    logging.warning(
        "search of %d utterances ran out of memory: trying again in halves", len(inputs)
    )
    # outside the except block: the traceback would keep the failed attempt's arrays alive
    half = len(inputs) // 2
    parts = (inputs[:half], inputs[half:])
    return [one for p in parts for one in _lattices(fsa, p, device, attempt, options, best)]


def _intersect(
    fsa: Any, inputs: list[np.ndarray], device: torch.device, options: SearchOptions
) -> Any:
    lens = torch.tensor([len(scores) for scores in inputs])
    padded = torch.zeros(len(inputs), int(lens.max()), inputs[0].shape[1])
    for row, scores in zip(padded, inputs, strict=True):
        row[: len(scores)] = torch.from_numpy(scores)
    dense = _dense(padded.to(device), lens, torch.arange(len(inputs)))
    return k2.intersect_dense_pruned(
        fsa,
        dense,
        search_beam=options.search_beam,
        output_beam=options.lattice_beam,
        min_active_states=MIN_ACTIVE,
        max_active_states=options.max_active,
    )


def _split(lattices: Any, options: SearchOptions) -> list[Lattice | None]:
    """One :class:`Lattice` for each utterance of a k2 FsaVec, None where it is empty."""
    arcs = lattices.arcs.values().cpu().numpy()
    offsets = lattices.arcs.shape().row_splits(2)[lattices.arcs.shape().row_splits(1).long()]
    bounds = offsets.tolist()
    scores = lattices.scores.detach().cpu().double().numpy()
    lm = lattices.lm_scores.detach().cpu().double().numpy()
    words = lattices.aux_labels.values.cpu().numpy()
    splits = lattices.aux_labels.shape.row_splits(1).cpu().numpy()
    out: list[Lattice | None] = []
    for begin, end in itertools.pairwise(bounds):
        if begin == end:
            out.append(None)
            continue
        part = slice(begin, end)
        counts = np.diff(splits[begin : end + 1])
        # axes [arc][word], flat
        own = words[splits[begin] : splits[end]]
        out.append(_lattice(arcs[part], scores[part], lm[part], counts, own, options))
    return out


def _lattice(
    arcs: np.ndarray,
    scores: np.ndarray,
    lm: np.ndarray,
    counts: np.ndarray,
    words: np.ndarray,
    options: SearchOptions,
) -> Lattice:
    """Chain an arc of several words through new states; the last arc of the chain has the token."""
    length = np.maximum(counts, 1)
    owner = np.repeat(np.arange(len(arcs)), length)
    last = np.cumsum(length) - 1
    is_last = np.zeros(len(owner), dtype=bool)
    is_last[last] = True
    is_first = np.concatenate([[True], is_last[:-1]])
    states = int(arcs[:, :2].max()) + 1
    inner = states + np.cumsum(~is_last) - 1  # state that an arc before the last leads to
    dst = np.where(is_last, arcs[owner, 1], inner)
    src = np.where(is_first, arcs[owner, 0], np.concatenate([[0], dst[:-1]]))
    word = np.zeros(len(owner), dtype=np.int64)
    # arcs without a word have a row too, which stays epsilon
    word[np.repeat(counts > 0, length)] = words
    total = states + int((~is_last).sum())
    final = np.full(total, -np.inf)
    # k2 puts final costs on the arcs with label -1: ending in their target is free
    final[arcs[arcs[:, 2] == -1, 1]] = 0.0
    # a scale of 0 cannot be undone: the score stays 0
    am = (scores - lm) / (options.acoustic_scale or 1.0)
    return make_lattice(
        src,
        dst,
        np.where(is_last, arcs[owner, 2], -1),
        # arcs to the final state have -1 as their word too
        np.maximum(word, 0),
        np.where(is_last, am[owner], 0.0),
        np.where(is_last, lm[owner] / (options.lm_scale or 1.0), 0.0),
        final,
        options.acoustic_scale,
        options.lm_scale,
    )
