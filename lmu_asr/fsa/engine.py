"""One interface to two engines that search finite-state graphs, k2 and OpenFst, and the losses of k2.

Shapes: N batch, T frames, V vocabulary. Scores are log probabilities, base e.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Protocol, cast

from torch import Tensor

from lmu_asr.errors import ConfigError
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.hypothesis import Hypothesis
from lmu_asr.fsa.lattice import Lattice
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang


class Engine(Protocol):
    """Search; both engines search the same compiled graph."""

    name: str

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


class LossEngine(Engine, Protocol):
    """Search, and losses over graphs: k2 alone has them."""

    def ctc_loss(
        self,
        log_probs: Tensor,
        lens: Tensor,
        targets: Sequence[Sequence[int]],
    ) -> Tensor:
        """Negative log probability (N,) of ``targets`` under CTC (Graves et al. 2006).

        Args:
            log_probs: (N, T, V) float32, output of log_softmax.
            lens: (N,) int64 frames.
            targets: N sequences of token ids without blank.

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
    ) -> Tensor:
        """Negative log probability (N,) of ``texts`` under CTC, summed over all pronunciations.

        Args:
            log_probs: (N, T, V) float32 log-probabilities.
            lens: (N,) int64 frames.
            texts: N transcripts.
            lang: lexicon; optional silence is allowed between words where ``lang`` has it.

        An utterance with too few frames costs zero and is counted, as in :meth:`ctc_loss`.

        Raises:
            LangError: a word without a pronunciation.
        """
        ...


def get_loss_engine() -> LossEngine:
    """Return k2.

    Raises:
        ConfigError: it does not import.
    """
    return cast(LossEngine, get_engine("k2"))


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
        # a k2 that was built for another torch or CUDA is found, but does not load
        except (ImportError, OSError) as error:
            problem = str(error).splitlines()[0]
    if required:
        raise ConfigError(
            f"engine k2: {problem}; run utils/setup.sh --with-k2 or use --fsa openfst"
        )
    return None
