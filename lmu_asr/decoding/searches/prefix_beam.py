"""CTC prefix beam search (Graves 2012, section 7.5.3; Hannun et al. 2014) with shallow fusion.

A prefix's score is the sum over all its alignments, so the best prefix can differ from the best
path. All tokens are tried in every frame, at once for all prefixes. Legend: B prefixes, T frames,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from lmu_asr.decoding.align import viterbi_alignment
from lmu_asr.decoding.searches.context import ContextGraph
from lmu_asr.decoding.searches.ngram import NgramScorer
from lmu_asr.fsa.hypothesis import Hypothesis, collapse, word_spans
from lmu_asr.fsa.inputs import search_inputs
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import BOUNDARY, Lang

NEG = -np.inf


@dataclass(frozen=True)
class Fusion:
    """What is added to the posteriors of prefixes.

    Attributes:
        lang: tokens; a token that begins with the word boundary starts a word.
        lm: word n-gram, applied when a word is complete; None: no language model.
        lm_scale: factor of its natural log probabilities.
        context: hot words over tokens; None: none.
    """

    lang: Lang
    lm: NgramScorer | None = None
    lm_scale: float = 1.0
    context: ContextGraph | None = None

    def word_starts(self) -> np.ndarray:
        """(V,) bool: tokens that complete the word before them."""
        return np.array([token.startswith(BOUNDARY) for token in self.lang.tokens])


@dataclass
class _Prefixes:
    """The prefixes ever kept, as a tree; node 0 is empty."""

    parent: list[int] = field(default_factory=lambda: [-1])
    token: list[int] = field(default_factory=lambda: [0])
    children: dict[tuple[int, int], int] = field(default_factory=dict)
    bonus: list[float] = field(default_factory=lambda: [0.0])
    lm_state: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    context: list[int] = field(default_factory=lambda: [0])
    completion: dict[int, tuple[float, tuple[int, int]]] = field(default_factory=dict)

    def tokens_of(self, node: int) -> list[int]:
        """Tokens from the root to ``node``."""
        tokens = []
        while node > 0:
            tokens.append(self.token[node])
            node = self.parent[node]
        return tokens[::-1]


class PrefixBeamSearch:
    """Prefix beam search over one utterance at a time.

    Args:
        beam: prefixes kept at each frame.
        fusion: language model and hot words; None: posteriors alone.
    """

    def __init__(self, beam: int, fusion: Fusion | None = None) -> None:
        self.beam = beam
        self.fusion = fusion
        self._starts = fusion.word_starts() if fusion and fusion.lm else None

    def search(self, scores: np.ndarray) -> list[tuple[list[int], float, float]]:
        """Return (tokens, total score, fusion part of it) of the kept prefixes, best first.

        ``scores`` is (T, V) float32 log probabilities.
        """
        tree = _Prefixes()
        if self.fusion and self.fusion.lm:
            tree.lm_state[0] = self.fusion.lm.start
        nodes = np.array([0])
        # the empty prefix: probability 1, and no last token
        blank, label = np.zeros(1), np.full(1, NEG)
        for frame in scores.astype(np.float64):
            nodes, blank, label = self._step(tree, nodes, blank, label, frame)
        return self._finish(tree, nodes, np.logaddexp(blank, label))

    def _step(
        self,
        tree: _Prefixes,
        nodes: np.ndarray,
        blank: np.ndarray,
        label: np.ndarray,
        frame: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        last = np.array([tree.token[node] for node in nodes])
        total = np.logaddexp(blank, label)
        stay_blank = total + frame[0]
        # the empty prefix has no token to repeat
        stay_label = np.where(last > 0, label + frame[last], NEG)
        grow = total[:, None] + frame[None, :]  # (B, V)
        # the same token again counts as new only after a blank
        grow[np.arange(len(nodes)), last] = blank + frame[last]
        # a blank extends no prefix: its share is in stay_blank
        grow[:, 0] = NEG
        self._merge(tree, nodes, stay_label, grow)
        # kept apart from the path sums, since all alignments of a prefix share it
        extra = np.array([tree.bonus[node] for node in nodes])
        stay = np.logaddexp(stay_blank, stay_label) + extra
        grown = grow + extra[:, None] + self._gains(tree, nodes, len(frame))
        ranked = np.concatenate([stay, grown.ravel()])
        chosen = _best(ranked, self.beam)
        # merged and impossible extensions must not fill the beam
        chosen = chosen[~np.isneginf(ranked[chosen])]
        kept = [self._node(tree, nodes, index, len(frame)) for index in chosen.tolist()]
        stays = chosen < len(nodes)
        at = np.where(stays, chosen, 0)
        grew = np.where(stays, 0, chosen - len(nodes))
        new_blank = np.where(stays, stay_blank[at], NEG)
        new_label = np.where(stays, stay_label[at], grow.ravel()[grew])
        return np.array(kept), new_blank, new_label

    def _merge(
        self, tree: _Prefixes, nodes: np.ndarray, stay_label: np.ndarray, grow: np.ndarray
    ) -> None:
        """Where a kept prefix is a kept parent's extension, add up the two ways to it."""
        position = {node: index for index, node in enumerate(nodes.tolist())}
        for index, node in enumerate(nodes.tolist()):
            parent = position.get(tree.parent[node])
            if parent is not None:
                token = tree.token[node]
                stay_label[index] = np.logaddexp(stay_label[index], grow[parent, token])
                # moved, not copied, or the same prefix would stand in the beam twice
                grow[parent, token] = NEG

    def _gains(self, tree: _Prefixes, nodes: np.ndarray, vocab_size: int) -> np.ndarray:
        """(B, V) fusion score that each extension adds."""
        gains = np.zeros((len(nodes), vocab_size))
        if self.fusion is None:
            return gains
        if self._starts is not None:
            done = np.array([self._completion(tree, node)[0] for node in nodes.tolist()])
            gains += np.where(self._starts[None, :], done[:, None], 0.0)
        if self.fusion.context is not None:
            gains += self.fusion.context.gain[[tree.context[node] for node in nodes.tolist()]]
        return gains

    def _completion(self, tree: _Prefixes, node: int) -> tuple[float, tuple[int, int]]:
        """Scaled score of the word that ends at ``node``, and the state behind it."""
        fusion = self.fusion
        if fusion is None or fusion.lm is None:
            return 0.0, (0, 0)
        # kept: every extension of the node that starts a word asks for the same score
        if node not in tree.completion:
            word = self._last_word(tree, node)
            score, state = 0.0, tree.lm_state[node]
            if word:
                score, state = fusion.lm.step(state, word)
            tree.completion[node] = (fusion.lm_scale * score, state)
        return tree.completion[node]

    def _last_word(self, tree: _Prefixes, node: int) -> str:
        tokens: list[int] = []
        while node > 0:
            tokens.append(tree.token[node])
            if self._starts is not None and self._starts[tree.token[node]]:
                break
            node = tree.parent[node]
        return self.fusion.lang.decode(tokens[::-1]) if self.fusion else ""

    def _node(self, tree: _Prefixes, nodes: np.ndarray, index: int, vocab_size: int) -> int:
        """Node of a candidate: a kept prefix, or the extension of one, made where it is new."""
        if index < len(nodes):
            return int(nodes[index])
        row, token = divmod(index - len(nodes), vocab_size)
        parent = int(nodes[row])
        if (parent, token) not in tree.children:
            tree.children[parent, token] = len(tree.parent)
            tree.parent.append(parent)
            tree.token.append(token)
            self._fuse(tree, parent, token)
        return tree.children[parent, token]

    def _fuse(self, tree: _Prefixes, parent: int, token: int) -> None:
        bonus, state = tree.bonus[parent], tree.lm_state[parent]
        if self._starts is not None and self._starts[token]:
            gain, state = self._completion(tree, parent)
            bonus += gain
        context = 0
        if self.fusion is not None and self.fusion.context is not None:
            graph = self.fusion.context
            bonus += float(graph.gain[tree.context[parent], token])
            context = int(graph.next[tree.context[parent], token])
        tree.bonus.append(bonus)
        tree.lm_state.append(state)
        tree.context.append(context)

    def _finish(
        self, tree: _Prefixes, nodes: np.ndarray, total: np.ndarray
    ) -> list[tuple[list[int], float, float]]:
        found = []
        for node, score in zip(nodes.tolist(), total.tolist(), strict=True):
            extra = tree.bonus[node]
            if self.fusion is not None and self.fusion.lm is not None:
                gain, state = self._completion(tree, node)
                # the last word has no token after it that would complete it
                extra += gain + self.fusion.lm_scale * self.fusion.lm.end(state)
            if self.fusion is not None and self.fusion.context is not None:
                extra += float(self.fusion.context.unfinished[tree.context[node]])
            found.append((tree.tokens_of(node), score + extra, extra))
        return sorted(found, key=lambda item: -item[1])


def prefix_beam_search(
    log_probs: Tensor,
    lens: Tensor,
    lang: Lang,
    options: SearchOptions,
    lm: NgramScorer | None = None,
    context: ContextGraph | None = None,
    ids: Sequence[str] | None = None,
) -> list[Hypothesis]:
    """Search each utterance; the alignment is the best path of the tokens found.

    Args:
        log_probs: (N, T, V) float32.
        lens: (N,) int64 frames.
        lang: turns tokens into words.
        options: ``beam``, ``acoustic_scale``, ``lm_scale``, ``blank_penalty``.
        lm: word n-gram for shallow fusion (tokens with word boundaries only: char, bpe).
        context: hot words.
        ids: utterance ids for messages.

    Raises:
        DataError: NaN or +infinity in the posteriors, naming the utterance.
    """
    fusion = None
    if lm is not None or context is not None:
        words = lang.unit != "phone"
        fusion = Fusion(lang, lm if words else None, options.lm_scale, context)
    searcher = PrefixBeamSearch(options.beam, fusion)
    inputs = search_inputs(log_probs, lens, options, ids)
    return [_hypothesis(scores, searcher, lang, options) for scores in inputs]


def _hypothesis(
    scores: np.ndarray, searcher: PrefixBeamSearch, lang: Lang, options: SearchOptions
) -> Hypothesis:
    tokens, score, extra = searcher.search(scores)[0]
    # the search sums over alignments and keeps none, so times come from the best one
    alignment, _ = viterbi_alignment(scores, tokens)
    _, times = collapse(alignment)
    words = lang.decode(tokens).split()
    return Hypothesis(
        words=words,
        tokens=tokens,
        times=times,
        score=score,
        # a scale of 0 would divide by zero
        am_score=(score - extra) / (options.acoustic_scale or 1.0),
        lm_score=extra / (options.lm_scale or 1.0),
        alignment=alignment,
        word_spans=word_spans(words, tokens, alignment, lang),
    )


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` highest scores, best first, earlier ones first among equals."""
    # a partition first, since sorting all B times V candidates costs far more
    if len(scores) > 4 * count:
        floor = np.partition(scores, len(scores) - count)[len(scores) - count]
        # all equals of the last one stay in, so that the stable sort below decides among them
        among = np.flatnonzero(scores >= floor)
    else:
        among = np.arange(len(scores))
    return among[np.argsort(-scores[among], kind="stable")][:count]
