"""Hot words: phrases whose words or tokens score higher (contextual biasing by Aho & Corasick 1975).

Every label of a phrase earns the boost as it is read. A phrase that is not finished gives back
what it earned, unless the part that still matches is the beginning of another. S states, L labels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import kaldifst
import numpy as np

from lmu_asr.errors import GraphError, LangError
from lmu_asr.fsa.arrays import from_fst, make_arrays
from lmu_asr.fsa.graphs import Graph
from lmu_asr.lang.lang import Lang


class ContextGraph:
    """A deterministic automaton over labels 0 to L - 1.

    Args:
        phrases: label sequences, none empty.
        num_labels: L.
        boost: score that each matched label earns.

    Attributes:
        next: (S, L) int32 state after each label; state 0 matches nothing.
        gain: (S, L) score of each step, what is given back included.
        unfinished: (S,) score at the end of the utterance: what an unfinished phrase gives back.
    """

    def __init__(self, phrases: Iterable[Sequence[int]], num_labels: int, boost: float) -> None:
        children, ends = _trie(phrases)
        count = len(children)
        self.next = np.zeros((count, num_labels), dtype=np.int32)
        self.gain = np.zeros((count, num_labels))
        fail = np.zeros(count, dtype=np.int64)
        earned = np.zeros(count)  # boost of the labels that a state has matched
        loan = np.zeros(count)  # the part of it that no finished phrase backs
        queue = deque([0])
        order = []
        while queue:
            state = queue.popleft()
            order.append(state)
            # breadth first: the failure state is nearer to the root, so its row is complete by now
            self.next[state] = self.next[fail[state]]
            for label, child in children[state].items():
                fail[child] = self.next[fail[state], label] if state else 0
                earned[child] = earned[state] + boost
                # a finished phrase keeps all that it has earned
                loan[child] = 0.0 if child in ends else loan[state] + boost
                queue.append(child)
            for label, child in children[state].items():
                self.next[state, label] = child
        for state in order:
            # what no finished phrase backs goes back; what still matches afterwards is earned
            self.gain[state] = earned[self.next[state]] - loan[state]
            self.gain[state, list(children[state])] = boost
        self.unfinished = -loan


def _trie(phrases: Iterable[Sequence[int]]) -> tuple[list[dict[int, int]], set[int]]:
    """Children of each state by label, and the states where a phrase ends."""
    children: list[dict[int, int]] = [{}]
    ends = set()
    for phrase in phrases:
        state = 0
        for label in phrase:
            if label not in children[state]:
                children[state][label] = len(children)
                children.append({})
            state = children[state][label]
        ends.add(state)
    return children, ends


def hot_words(lang: Lang, phrases: Iterable[str], boost: float, unit: str) -> ContextGraph:
    """Build the context graph of ``phrases`` over tokens or words of ``lang``.

    Args:
        lang: spells the phrases.
        phrases: words separated by spaces.
        boost: score of each token or word, in log probability.
        unit: ``token`` (prefix beam search) or ``word`` (composition with HLG).

    Raises:
        LangError: an empty phrase, or one that ``lang`` cannot spell.
    """
    sequences = []
    for phrase in phrases:
        if not phrase.split():
            raise LangError("hot words: an empty phrase")
        sequences.append(lang.encode(phrase) if unit == "token" else _word_ids(lang, phrase))
    size = lang.vocab_size if unit == "token" else len(lang.words)
    return ContextGraph(sequences, size, boost)


def _word_ids(lang: Lang, phrase: str) -> list[int]:
    unknown = [word for word in phrase.split() if word not in lang.word_ids]
    if unknown:
        raise LangError(f"hot word {unknown[0]!r} of {phrase!r} is not in {lang.dir}/words.txt")
    return [lang.word_ids[word] for word in phrase.split()]


def boosted_graph(graph: Graph, context: ContextGraph) -> Graph:
    """Compose HL or HLG with hot words over words; the boost is in units of the graph's scores.

    The composed graph has up to as many copies of the graph as hot words have prefixes: meant for
    some dozens of phrases. The result has no file behind it.

    Raises:
        GraphError: a graph of tokens (H).
    """
    if graph.kind == "H":
        raise GraphError("hot words are composed with HL or HLG; H has no words")
    states, labels = context.next.shape
    # from 1, since label 0 is epsilon, which no hot word reads
    src, word = (grid.ravel() for grid in np.mgrid[0:states, 1:labels])
    acceptor = make_arrays(
        # negated: weights of a graph are costs
        src,
        word,
        word,
        -context.gain[src, word],
        context.next[src, word],
        -context.unfinished,
    )
    base = graph.arrays.to_vector()
    # compose finds matching labels by bisection in sorted arcs
    kaldifst.arcsort(base, "olabel")
    composed = kaldifst.compose(base, acceptor.to_vector())
    kaldifst.arcsort(composed, "ilabel")
    # _scaled anew: the copy must not share the scaled weights kept for the old arcs
    return replace(graph, arrays=from_fst(composed), path=None, steps=(), _scaled={})


def boosted_graphs(
    graphs: Mapping[str, Graph], lang: Lang, phrases: Sequence[str], boost: float
) -> dict[str, Graph]:
    """Compose HL and HLG of ``graphs`` (by kind) with hot words; H stays as it is.

    Raises:
        LangError: an empty phrase, or a word outside words.txt.
    """
    context = hot_words(lang, phrases, boost, "word")
    return {
        kind: graph if kind == "H" else boosted_graph(graph, context)
        for kind, graph in graphs.items()
    }
