"""Decoding graphs: H, HL and HLG compiled with kaldifst (Mohri, Pereira & Riley 2008).

HLG is H composed with min(det(L_disambig o G)). Only LG is determinised: H is deterministic on
its input apart from the epsilons of LG, and determinising the whole would multiply the work.
Input labels of the result are token + 1 (0: epsilon), output labels are word ids (0: epsilon); in
H alone they are tokens. Costs are unscaled negative log probabilities of lexicon and language
model; ``Graph.scaled`` applies ``lm_scale``, so that beams keep their acoustic units.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import kaldifst
import numpy as np

from lmu_asr.config import GraphConfig
from lmu_asr.errors import DocumentError, GraphError
from lmu_asr.files import atomic_write_bytes, read_json, sha256_file, write_json
from lmu_asr.fsa.arrays import FstArrays, from_const_bytes, from_fst, to_const_bytes
from lmu_asr.fsa.memory import peak_bytes
from lmu_asr.fsa.topology import ctc_topology
from lmu_asr.lang.lang import Lang

KINDS = ("H", "HL", "HLG")
WEIGHT_DELTA = 2.0**-14  # costs closer than this are one: well below what scores are read to


@dataclass(frozen=True)
class CompileStep:
    """One step of a compilation: what came out, how long it took, the peak memory so far."""

    name: str
    states: int
    arcs: int
    seconds: float
    peak_mib: float

    def line(self) -> str:
        """Return the step as one line of a log."""
        size = f"{self.states:,} states, {self.arcs:,} arcs"
        return f"{self.name}: {size}, {self.seconds:.1f} s, peak {self.peak_mib:,.0f} MiB"


@dataclass(frozen=True)
class Graph:
    """A decoding graph, tied to its lang directory and language model by their fingerprints.

    Attributes:
        kind: ``H``, ``HL`` or ``HLG``.
        arrays: states and arcs; input labels token + 1, output labels words (tokens in H).
        lang: tokens and words; its fingerprint is stored with the graph.
        lm_fingerprint: SHA-256 of the ARPA file; empty for H and HL.
        topology: CTC topology of H.
        path: file that it was read from or written to.
    """

    kind: str
    arrays: FstArrays
    lang: Lang
    lm_fingerprint: str = ""
    topology: str = "standard"
    path: Path | None = None
    steps: tuple[CompileStep, ...] = ()
    _scaled: dict[float, Graph] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def fst(self) -> Any:
        """The graph as a ``kaldifst.StdConstFst``."""
        return self.arrays.to_const()

    def scaled(self, lm_scale: float) -> Graph:
        """Return the graph with every cost multiplied by ``lm_scale``; the last one is kept."""
        if lm_scale == 1.0 or self.kind == "H":
            return self
        if lm_scale not in self._scaled:
            # a scaled copy has the size of the graph: keep one alone
            self._scaled.clear()
            arrays = self.arrays.scaled(lm_scale)
            self._scaled[lm_scale] = replace(self, arrays=arrays, _scaled={})
        return self._scaled[lm_scale]

    def save(self, path: Path) -> None:
        """Write ``path`` (OpenFst const binary) and, last, ``path`` with suffix .json; atomic."""
        # after a kill between the two writes, load() finds that the sum of the graph differs
        data = to_const_bytes(self.arrays)
        atomic_write_bytes(path, data)
        write_json(
            path.with_suffix(".json"),
            {
                "kind": self.kind,
                "topology": self.topology,
                "lang_fingerprint": self.lang.fingerprint,
                "lm_fingerprint": self.lm_fingerprint,
                "states": self.arrays.num_states,
                "arcs": self.arrays.num_arcs,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            },
        )

    @staticmethod
    def load(path: Path, lang: Lang) -> Graph:
        """Read a graph and check that it belongs to ``lang``.

        Raises:
            GraphError: missing, broken, or compiled from another lang directory.
        """
        about = _read_about(path)
        if about["lang_fingerprint"] != lang.fingerprint:
            raise GraphError(
                f"{path}: compiled from the lang directory {about['lang_fingerprint'][:12]}, but"
                f" {lang.dir} is {lang.fingerprint[:12]}; run the graph stage again"
            )
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise GraphError(f"{path}: differs from its description; run the graph stage again")
        return Graph(
            kind=about["kind"],
            arrays=from_const_bytes(data, str(path)),
            lang=lang,
            lm_fingerprint=about["lm_fingerprint"],
            topology=about["topology"],
            path=path,
        )


def compile_graph(
    kind: str, lang: Lang, arpa: Path | None, out: Path, config: GraphConfig
) -> Graph:
    """Compile H, HL or HLG of ``lang`` and write it to ``out`` (``<name>.fst`` and ``.json``).

    Args:
        kind: ``H``, ``HL`` or ``HLG``.
        lang: tokens, words and L_disambig.fst.
        arpa: language model in ARPA format; needed for HLG, ignored otherwise.
        out: the ``.fst`` file to write.
        config: topology of H.

    Raises:
        GraphError: unknown kind, HLG without a language model, a word of G that L cannot spell,
            or a graph without any path.
    """
    if kind not in KINDS:
        raise GraphError(f"graph kind '{kind}': want one of {', '.join(KINDS)}")
    if kind == "HLG" and arpa is None:
        raise GraphError("HLG needs a language model: give an ARPA file")
    grammar = _grammar(arpa, lang) if kind == "HLG" and arpa is not None else None
    lexicon = None if kind == "H" else kaldifst.StdVectorFst.read(str(lang.dir / "L_disambig.fst"))
    arrays, steps = compose_graph(
        lexicon, grammar, lang.vocab_size, lang.word_disambig_id, config.topology
    )
    graph = Graph(
        kind=kind,
        arrays=arrays,
        lang=lang,
        lm_fingerprint=sha256_file(arpa) if kind == "HLG" and arpa is not None else "",
        topology=config.topology,
        path=out,
        steps=steps,
    )
    graph.save(out)
    return graph


def compose_graph(
    lexicon: Any, grammar: Any, num_tokens: int, num_words: int, topology: str = "standard"
) -> tuple[FstArrays, tuple[CompileStep, ...]]:
    """Compose H with the lexicon and the grammar; either may be None.

    Args:
        lexicon: ``StdVectorFst`` L_disambig from tokens (>= ``num_tokens``: disambiguation
            symbols) to words (>= ``num_words``: disambiguation symbols), a closed loop.
        grammar: ``StdVectorFst`` acceptor of words, back-off arcs labelled with a word
            disambiguation symbol.
        num_tokens: V, tokens with the blank.
        num_words: words with epsilon, without disambiguation symbols.
        topology: see :func:`ctc_topology`.

    Raises:
        GraphError: a word of the grammar that the lexicon cannot spell, or no path at all.
    """
    steps: list[CompileStep] = []
    topo = ctc_topology(num_tokens, topology)
    if lexicon is None:
        return topo, ()
    with _step("LG" if grammar is not None else "L", steps) as out:
        out.append(_compose_grammar(lexicon, grammar, num_words))
    tokens_to_words = out[0]
    with _step("determinised", steps) as out:
        kaldifst.determinize_star(tokens_to_words, delta=WEIGHT_DELTA)
        out.append(tokens_to_words)
    with _step("minimised", steps) as out:
        kaldifst.minimize_encoded(tokens_to_words, delta=WEIGHT_DELTA)
        # H has no arcs for disambiguation symbols: composing would drop their paths
        tokens_to_words = from_fst(tokens_to_words).without_disambiguation(num_tokens, num_words)
        out.append(tokens_to_words)
    with _step("composed with H", steps) as out:
        out.append(_compose_topology(topo, tokens_to_words.to_vector()))
    return out[0], tuple(steps)


def _compose_grammar(lexicon: Any, grammar: Any, num_words: int) -> Any:
    if grammar is None:
        return _without_backoff(from_fst(lexicon), num_words).to_vector()
    _check_words(lexicon, grammar, num_words)
    # arcsort is in place, and the lexicon is the caller's
    lexicon = lexicon.copy()
    kaldifst.arcsort(lexicon, "olabel")
    kaldifst.arcsort(grammar, "ilabel")
    return kaldifst.StdVectorFst(kaldifst.compose(lexicon, grammar))


def _without_backoff(lexicon: FstArrays, num_words: int) -> FstArrays:
    """Drop the loop that passes the back-off symbol of G: without G it would be an empty cycle."""
    keep = lexicon.arcs["olabel"] < num_words
    return replace(lexicon, src=lexicon.src[keep], arcs=lexicon.arcs[keep])


def _compose_topology(topology: FstArrays, tokens_to_words: Any) -> FstArrays:
    h = topology.to_vector()
    kaldifst.arcsort(h, "olabel")
    kaldifst.arcsort(tokens_to_words, "ilabel")
    graph = kaldifst.compose(h, tokens_to_words)
    kaldifst.arcsort(graph, "ilabel")
    arrays = from_fst(graph)
    if arrays.num_states == 0:
        raise GraphError("the composed graph has no path: lexicon and grammar share no word")
    return arrays


def _check_words(lexicon: Any, grammar: Any, num_words: int) -> None:
    """Refuse words of G that L cannot spell: composition would drop them without a word."""
    spelled = np.unique(from_fst(lexicon).arcs["olabel"])
    wanted = np.unique(from_fst(grammar).arcs["ilabel"])
    missing = np.setdiff1d(wanted[wanted < num_words], spelled)
    if len(missing):
        raise GraphError(
            f"{len(missing)} words of the grammar are not in the lexicon, first ids"
            f" {missing[:5].tolist()}; add pronunciations or drop them from the language model"
        )


@contextmanager
def _step(name: str, steps: list[CompileStep]) -> Iterator[list[Any]]:
    """Time a step whose result is appended to the list that this yields; log its size."""
    begin = time.monotonic()
    out: list[Any] = []
    yield out
    states, arcs = _size(out[-1])
    peak = peak_bytes() / 2**20
    steps.append(CompileStep(name, states, arcs, time.monotonic() - begin, peak))
    logging.info("graph: %s", steps[-1].line())


def _size(fst: Any) -> tuple[int, int]:
    if isinstance(fst, FstArrays):
        return fst.num_states, fst.num_arcs
    return fst.num_states, sum(fst.num_arcs(state) for state in range(fst.num_states))


def _read_about(path: Path) -> dict[str, Any]:
    about_path = path.with_suffix(".json")
    if not path.is_file() or not about_path.is_file():
        raise GraphError(f"{path}: no such graph; run the graph stage first")
    try:
        about = read_json(about_path)
    except DocumentError as error:
        raise GraphError(f"{error}; compile it again") from error
    if not isinstance(about, dict):
        raise GraphError(f"{about_path}: want an object; compile it again")
    missing = {"kind", "lang_fingerprint", "lm_fingerprint", "sha256"} - set(about)
    if missing:
        raise GraphError(f"{about_path}: lacks {', '.join(sorted(missing))}; compile it again")
    return dict(about)


def _grammar(arpa: Path, lang: Lang) -> Any:
    from lmu_asr.lang.grammar import arpa_to_fst

    return arpa_to_fst(arpa, lang)
