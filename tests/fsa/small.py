"""Small lexica, language models and posteriors, and the best path by exhaustive enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmu_asr.fsa.arrays import FstArrays, from_fst, make_arrays
from lmu_asr.fsa.graphs import Graph, compose_graph
from lmu_asr.lang.grammar import arpa_to_fst
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.lexicon import add_disambig, lexicon_fst
from lmu_asr.lang.ngram import train_ngram

Lexicon = list[tuple[str, tuple[str, ...]]]


def make_lang(lexicon: Lexicon, unit: str = "phone") -> tuple[Lang, Any]:
    """A Lang without files, and its L_disambig."""
    marked, highest = add_disambig(lexicon)
    tokens = ["<blk>", *sorted({t for _, prons in lexicon for t in prons})]
    tokens += [f"#{i}" for i in range(highest + 1)]
    words = ["<eps>", *sorted({w for w, _ in lexicon}), "#0", "<s>", "</s>"]
    lang = Lang(Path("small"), unit, tokens, words, lexicon, fingerprint="small")
    loop = (lang.token_ids["#0"], lang.word_ids["#0"])
    made = lexicon_fst(marked, lang.token_ids, lang.word_ids, loop)
    arrays = make_arrays(
        made.src, made.ilabel, made.olabel, made.cost, made.dst, made.final, made.start
    )
    return lang, arrays.to_vector()


@dataclass
class Small:
    """A lexicon, its graphs and its grammar."""

    lang: Lang
    grammar: FstArrays
    graphs: dict[str, Graph]


def compile_small(
    lexicon: Lexicon,
    sentences: Sequence[str],
    order: int = 2,
    topology: str = "standard",
    unit: str = "phone",
) -> Small:
    """Compile H, HL and HLG with an n-gram trained on ``sentences``."""
    lang, lexicon_graph = make_lang(lexicon, unit)
    grammar = arpa_to_fst(train_ngram(sentences, order), lang)
    arrays = from_fst(grammar)
    parts = {"H": (None, None), "HL": (lexicon_graph, None), "HLG": (lexicon_graph, grammar)}
    graphs = {}
    for kind, (lex, gram) in parts.items():
        made, steps = compose_graph(lex, gram, lang.vocab_size, lang.word_disambig_id, topology)
        graphs[kind] = Graph(kind, made, lang, topology=topology, steps=steps)
    return Small(lang, arrays, graphs)


def random_small(rng: np.random.Generator, topology: str = "standard") -> Small:
    """2 or 3 phones, 2 to 4 words of 1 to 3 phones, homophones and prefixes among them."""
    phones = [chr(97 + i) for i in range(rng.integers(2, 4))]
    lexicon: Lexicon = []
    for word in range(rng.integers(2, 5)):
        for _ in range(rng.integers(1, 3)):
            pron = tuple(rng.choice(phones, size=rng.integers(1, 4)).tolist())
            if (f"w{word}", pron) not in lexicon:
                lexicon.append((f"w{word}", pron))
    lexicon.sort()
    words = sorted({word for word, _ in lexicon})
    sentences = [" ".join(rng.choice(words, size=rng.integers(1, 5))) for _ in range(8)]
    return compile_small(lexicon, sentences, int(rng.integers(1, 4)), topology)


def random_log_probs(rng: np.random.Generator, frames: int, vocab: int) -> np.ndarray:
    """(T, V) float32 log probabilities."""
    logits = torch.tensor(rng.normal(size=(frames, vocab)) * 2.0)
    return torch.log_softmax(logits, dim=-1).float().numpy()


@dataclass
class Best:
    """The best path by enumeration, and how far ahead of every other output it is."""

    score: float
    output: tuple[int, ...]
    margin: float


def collapse_reference(path: Sequence[int]) -> tuple[int, ...]:
    """Repeats merged, then blanks dropped."""
    return tuple(token for token, _ in itertools.groupby(path) if token)


def best_by_enumeration(
    scores: np.ndarray, small: Small, kind: str, lm_scale: float = 1.0
) -> Best | None:
    """Try every frame sequence and, for HL and HLG, every way to spell it by words."""
    by_tokens: dict[tuple[int, ...], float] = {}
    frames, vocab = scores.shape
    for path in itertools.product(range(vocab), repeat=frames):
        total = float(sum(scores[t, token] for t, token in enumerate(path)))
        tokens = collapse_reference(path)
        by_tokens[tokens] = max(total, by_tokens.get(tokens, -np.inf))
    found: dict[tuple[int, ...], float] = {}
    for tokens, acoustic in by_tokens.items():
        for output, cost in _outputs(tokens, small, kind):
            found[output] = max(acoustic - lm_scale * cost, found.get(output, -np.inf))
    ranked = sorted(found.items(), key=lambda item: -item[1])
    if not ranked:
        return None
    margin = ranked[0][1] - ranked[1][1] if len(ranked) > 1 else np.inf
    return Best(ranked[0][1], ranked[0][0], margin)


def _outputs(
    tokens: tuple[int, ...], small: Small, kind: str
) -> list[tuple[tuple[int, ...], float]]:
    if kind == "H":
        return [(tokens, 0.0)]
    sequences = list(_spellings(tokens, small.lang))
    if kind == "HL":
        return [(words, 0.0) for words in sequences]
    costs = ((words, grammar_cost(small.grammar, words, small.lang)) for words in sequences)
    return [(words, cost) for words, cost in costs if np.isfinite(cost)]


def _spellings(tokens: tuple[int, ...], lang: Lang) -> Any:
    if not tokens:
        yield ()
        return
    for word, pron in lang.lexicon:
        ids = tuple(lang.token_ids[t] for t in pron)
        if tokens[: len(ids)] == ids:
            for rest in _spellings(tokens[len(ids) :], lang):
                yield (lang.word_ids[word], *rest)


def grammar_cost(grammar: FstArrays, words: tuple[int, ...], lang: Lang) -> float:
    """Least cost of ``words`` through G, back-off arcs (#0) free to take."""
    arcs = list(zip(grammar.src.tolist(), grammar.arcs.tolist(), strict=True))
    cost = {grammar.start: 0.0}
    for word in (*words, None):
        grew = True
        while grew:  # close over back-off arcs
            after = _advance(cost, arcs, lang.word_disambig_id)
            better = {s: c for s, c in after.items() if c < cost.get(s, np.inf)}
            cost.update(better)
            grew = bool(better)
        if word is not None:
            cost = _advance(cost, arcs, word)
    return min((c + float(grammar.final[state]) for state, c in cost.items()), default=np.inf)


def _advance(cost: dict[int, float], arcs: list[Any], label: int) -> dict[int, float]:
    after: dict[int, float] = {}
    for src, (ilabel, _, weight, dst) in arcs:
        if ilabel == label and src in cost:
            after[dst] = min(after.get(dst, np.inf), cost[src] + weight)
    return after
