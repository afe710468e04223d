"""One interface to two engines: loss and search over finite-state graphs, by k2 or by OpenFst.

Shapes: N batch, T frames, V vocabulary. Scores are log probabilities, base e.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lmu_asr.config import DecodeConfig
from lmu_asr.errors import ConfigError, DataError, GraphError
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.lattice import Lattice
from lmu_asr.lang.lang import Lang, ctc_min_frames

RETRY_WIDER = 2.0
RETRY_NARROWER = 0.6


@dataclass
class Hypothesis:
    """What a search found for one utterance.

    Attributes:
        words: recognised words.
        tokens: token ids, blanks and repeats removed.
        times: first frame (after subsampling, from 0) of each token.
        score: ``acoustic_scale * am_score + lm_scale * lm_score``, what the search maximised.
        am_score: unscaled log probability of the path in the posteriors.
        lm_score: unscaled log probability of the path in the graph.
        alignment: token of each frame, blanks and repeats included; T of them.
        word_spans: first frame and end frame (exclusive) of each word; empty where unknown.
        confidences: posterior of each word in the lattice, 0 to 1; empty where no lattice was made.
        fallback: the search found no path and this is the greedy result.
    """

    words: list[str]
    tokens: list[int]
    times: list[float]
    score: float
    am_score: float = 0.0
    lm_score: float = 0.0
    alignment: list[int] = field(default_factory=list)
    word_spans: list[tuple[int, int]] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    fallback: bool = False


@dataclass(frozen=True)
class SearchOptions:
    """How to search; beams are in units of scaled log probability.

    Attributes:
        search_beam: width of the search; a state this much worse than the best is dropped.
        lattice_beam: width of the lattice that is kept.
        max_active: states kept at each frame.
        acoustic_scale: factor of the log posteriors.
        lm_scale: factor of the graph's log probabilities.
        blank_penalty: taken from the log posterior of blank in every frame.
        beam: prefixes kept by prefix beam search.
        nbest: paths of n-best methods.
    """

    search_beam: float = 16.0
    lattice_beam: float = 8.0
    max_active: int = 7000
    acoustic_scale: float = 1.0
    lm_scale: float = 1.0
    blank_penalty: float = 0.0
    beam: int = 8
    nbest: int = 50

    @staticmethod
    def from_config(config: DecodeConfig) -> SearchOptions:
        """Take the beams from the configuration and the first of each list of scales."""
        return SearchOptions(
            search_beam=config.search_beam,
            lattice_beam=config.lattice_beam,
            max_active=config.max_active,
            acoustic_scale=config.acoustic_scales[0],
            lm_scale=config.lm_scales[0],
            blank_penalty=config.blank_penalties[0],
            beam=config.beam,
            nbest=config.nbest,
        )

    def wider(self) -> SearchOptions:
        """Return the options of the second attempt after a search that reached no final state."""
        return replace(
            self,
            search_beam=self.search_beam * RETRY_WIDER,
            max_active=int(self.max_active * RETRY_WIDER),
        )

    def narrower(self) -> SearchOptions:
        """Return the options of the next attempt after a search that ran out of memory."""
        return replace(
            self,
            search_beam=self.search_beam * RETRY_NARROWER,
            lattice_beam=self.lattice_beam * RETRY_NARROWER,
            max_active=max(int(self.max_active * RETRY_NARROWER), 20),
        )


class Engine(Protocol):
    """Loss and search; both engines search the same compiled graph."""

    name: str

    def ctc_loss(
        self,
        log_probs: Tensor,
        lens: Tensor,
        targets: Sequence[Sequence[int]],
        reduction: str = "sum",
    ) -> Tensor:
        """Negative log probability of ``targets`` under CTC (Graves et al. 2006).

        Args:
            log_probs: (N, T, V) float32, output of log_softmax (torch's gradient relies on it).
            lens: (N,) int64 frames.
            targets: N sequences of token ids without blank.
            reduction: ``sum`` for a scalar, ``none`` for (N,).

        An utterance with fewer frames than its tokens and adjacent repeats has no path: its loss
        and gradient are exactly zero and it is counted in the log.
        """
        ...

    def graph_ctc_loss(
        self,
        log_probs: Tensor,
        lens: Tensor,
        texts: Sequence[str],
        lang: Lang,
        reduction: str = "sum",
    ) -> Tensor:
        """Negative log probability of ``texts`` under CTC, summed over all pronunciations.

        Args:
            log_probs: (N, T, V) float32 log-probabilities.
            lens: (N,) int64 frames.
            texts: N transcripts.
            lang: lexicon; optional silence is allowed between words where ``lang`` has it.
            reduction: ``sum`` for a scalar, ``none`` for (N,).

        An utterance with too few frames costs zero and is counted, as in :meth:`ctc_loss`.

        Raises:
            LangError: a word without a pronunciation.
            ConfigError: the engine has no such loss.
        """
        ...

    def decode(
        self,
        log_probs: Tensor,
        lens: Tensor,
        graph: Graph,
        options: SearchOptions,
        ids: Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """Best path of each utterance; greedy where the search finds none (``fallback``).

        Args:
            log_probs: (N, T, V) float32.
            lens: (N,) int64 frames.
            graph: H, HL or HLG.
            options: beams and scales.
            ids: utterance ids for messages.

        Raises:
            DataError: NaN or +infinity in the posteriors, naming the utterance.
            GraphError: the graph has other tokens than the posteriors.
        """
        ...

    def lattices(
        self,
        log_probs: Tensor,
        lens: Tensor,
        graph: Graph,
        options: SearchOptions,
        ids: Sequence[str] | None = None,
    ) -> list[Lattice | None]:
        """Lattice of each utterance, None where the search finds no path; as :meth:`decode`."""
        ...


def get_engine(name: str = "auto", jobs: int = 1) -> Engine:
    """Return the engine ``k2`` or ``openfst``; ``auto`` takes k2 where it imports, and says so.

    Args:
        name: ``auto``, ``k2`` or ``openfst``.
        jobs: processes that openfst searches with; k2 uses threads of its own.

    Raises:
        ConfigError: unknown name, or k2 asked for where it does not import.
    """
    if name not in ("auto", "k2", "openfst"):
        raise ConfigError(f"engine '{name}': want auto, k2 or openfst")
    if name != "openfst":
        engine = _k2_engine(required=name == "k2")
        if engine is not None:
            logging.info("fsa engine: k2")
            return engine
    from lmu_asr.fsa.openfst import OpenFstEngine

    logging.info("fsa engine: openfst%s", " (k2 is not installed)" if name == "auto" else "")
    return OpenFstEngine(jobs)


def _k2_engine(required: bool) -> Engine | None:
    problem = "it is not installed"
    if importlib.util.find_spec("k2") is not None:
        try:
            from lmu_asr.fsa.k2_engine import K2Engine

            return K2Engine()
        except (ImportError, OSError) as error:
            problem = str(error).splitlines()[0]
    if required:
        raise ConfigError(
            f"engine k2: {problem}; run utils/setup.sh --with-k2 or use --fsa openfst"
        )
    return None


def feasible(lens: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Return (N,) bool: whether CTC has a path, frames >= tokens + adjacent repeats."""
    needed = [ctc_min_frames(target) for target in targets]
    return lens.cpu() >= torch.tensor(needed, dtype=torch.int64)


def check_vocabulary(log_probs: Tensor, graph: Graph) -> None:
    """Raise GraphError where the posteriors have another number of tokens than the graph's Lang."""
    wanted = graph.lang.vocab_size
    if log_probs.shape[2] != wanted:
        raise GraphError(
            f"posteriors over {log_probs.shape[2]} tokens, graph {graph.kind} over {wanted}:"
            " model and graph come from different lang directories"
        )


def search_inputs(
    log_probs: Tensor, lens: Tensor, options: SearchOptions, ids: Sequence[str] | None
) -> list[np.ndarray]:
    """Return the scaled scores of each utterance, (T, V) float32, checked.

    Raises:
        DataError: NaN or +infinity, naming the utterance and its first bad frame.
    """
    values = log_probs.detach().to("cpu", torch.float32)
    out = []
    for index, length in enumerate(lens.tolist()):
        scores = values[index, :length].numpy().copy()
        bad = np.flatnonzero((np.isnan(scores) | (scores == np.inf)).any(axis=1))
        if len(bad):
            name = ids[index] if ids is not None else f"number {index} of the batch"
            raise DataError(
                f"utterance {name}: {len(bad)} of {length} frames of posteriors hold NaN or"
                f" infinity, the first is {bad[0]}; check the model and its checkpoint"
            )
        scores[:, 0] -= options.blank_penalty
        scores *= options.acoustic_scale
        out.append(scores)
    return out


def collapse(alignment: Sequence[int]) -> tuple[list[int], list[float]]:
    """Remove repeats, then blanks (0): return the tokens and the first frame of each."""
    path = np.asarray(alignment, dtype=np.int64)
    starts = np.flatnonzero((path != 0) & np.concatenate([[True], path[1:] != path[:-1]]))
    return path[starts].tolist(), starts.astype(float).tolist()


def greedy_hypothesis(scores: np.ndarray, lang: Lang, fallback: bool = False) -> Hypothesis:
    """Best token of each frame, collapsed. ``scores`` is (T, V)."""
    alignment = scores.argmax(axis=1)
    tokens, times = collapse(alignment) if len(alignment) else ([], [])
    am_score = float(scores.max(axis=1).astype(np.float64).sum()) if len(alignment) else 0.0
    return Hypothesis(
        words=lang.decode(tokens).split(),
        tokens=tokens,
        times=times,
        score=am_score,
        am_score=am_score,
        alignment=alignment.tolist(),
        fallback=fallback,
    )
