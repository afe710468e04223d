"""Prefix beam search against the sum over all alignments of every token sequence."""

import itertools

import numpy as np
import pytest
import torch

from lmu_asr.decoding.searches.context import ContextGraph
from lmu_asr.decoding.searches.ngram import NgramScorer
from lmu_asr.decoding.searches.prefix_beam import Fusion, PrefixBeamSearch, prefix_beam_search
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.ngram import train_ngram
from tests.decoding.small import char_lang, log_probs
from tests.fsa.small import collapse_reference


def sums(scores: np.ndarray) -> dict[tuple[int, ...], float]:
    """Log probability of every token sequence, all alignments added up."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(scores.shape[1]), repeat=len(scores)):
        total = float(sum(scores[t, token] for t, token in enumerate(path)))
        tokens = collapse_reference(path)
        found[tokens] = np.logaddexp(found.get(tokens, -np.inf), total)
    return found


def test_sum_over_alignments_beats_the_best_path() -> None:
    """The classic case: blank is best in both frames, but "a" has three alignments to one."""
    scores = np.log(np.array([[0.6, 0.4], [0.6, 0.4]], dtype=np.float32))
    found = PrefixBeamSearch(beam=4).search(scores)
    assert found[0][0] == [1]
    assert found[0][1] == pytest.approx(np.log(0.4 * 0.6 + 0.6 * 0.4 + 0.4 * 0.4), abs=1e-6)
    assert found[1][0] == []
    assert found[1][1] == pytest.approx(np.log(0.36), abs=1e-6)


def test_repeat_needs_a_blank() -> None:
    scores = np.log(np.array([[0.1, 0.9], [0.1, 0.9], [0.1, 0.9]], dtype=np.float32))
    found = {tuple(tokens): score for tokens, score, _ in PrefixBeamSearch(beam=9).search(scores)}
    assert found[1, 1] == pytest.approx(np.log(0.9 * 0.1 * 0.9), abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_wide_beam_is_exact(seed: int) -> None:
    scores = log_probs(np.random.default_rng(seed), 5, 3)
    expected = sums(scores)
    found = {tuple(tokens): score for tokens, score, _ in PrefixBeamSearch(400).search(scores)}
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_narrow_beam_finds_the_best_and_is_ordered(seed: int) -> None:
    scores = log_probs(np.random.default_rng(seed), 5, 3, scale=4.0)
    expected = sums(scores)
    found = PrefixBeamSearch(8).search(scores)
    assert tuple(found[0][0]) == max(expected, key=lambda tokens: expected[tokens])
    assert [item[1] for item in found] == sorted((item[1] for item in found), reverse=True)
    assert len(found) <= 8


@pytest.mark.parametrize("seed", range(6))
def test_language_model_is_added_word_by_word(seed: int) -> None:
    lang = char_lang("ab", ["a", "b", "ab", "ba"])
    lm = NgramScorer(train_ngram(["a b", "ab", "ba a", "b b"], 2))
    scores = log_probs(np.random.default_rng(seed), 5, lang.vocab_size)
    fusion = Fusion(lang, lm, lm_scale=0.8)
    found = PrefixBeamSearch(3000, fusion).search(scores)
    expected = {}
    for tokens, acoustic in sums(scores).items():
        words = lang.decode(tokens).split()
        expected[tokens] = acoustic + 0.8 * lm.score(words)
    assert {tuple(t): score for t, score, _ in found} == pytest.approx(expected, abs=1e-4)
    assert found[0][2] == pytest.approx(0.8 * lm.score(lang.decode(found[0][0]).split()))


@pytest.mark.parametrize("seed", range(4))
def test_hot_words_are_added(seed: int) -> None:
    lang = char_lang("ab", ["a", "b", "ab"])
    context = ContextGraph([[2, 3], [3, 3]], lang.vocab_size, boost=1.5)
    scores = log_probs(np.random.default_rng(seed), 4, lang.vocab_size)
    found = PrefixBeamSearch(3000, Fusion(lang, context=context)).search(scores)
    expected = {}
    for tokens, acoustic in sums(scores).items():
        state, bonus = 0, 0.0
        for token in tokens:
            bonus += context.gain[state, token]
            state = context.next[state, token]
        expected[tokens] = acoustic + bonus + context.unfinished[state]
    assert {tuple(t): score for t, score, _ in found} == pytest.approx(expected, abs=1e-5)


def test_hypotheses_carry_alignment_and_scores() -> None:
    lang = char_lang("ab", ["ab", "b"])
    frames = [1, 2, 0, 3, 3, 1, 0, 3]  # boundary a - b b boundary - b
    logits = 7.0 * torch.nn.functional.one_hot(torch.tensor([frames]), lang.vocab_size)
    batch = torch.log_softmax(logits, -1)
    options = SearchOptions(acoustic_scale=0.5)
    hyp = prefix_beam_search(batch, torch.tensor([8]), lang, options)[0]
    assert hyp.words == ["ab", "b"]
    assert hyp.alignment == frames
    assert hyp.times == [0.0, 1.0, 3.0, 5.0, 7.0]
    assert hyp.word_spans == [(0, 5), (5, 8)]
    assert hyp.score == pytest.approx(0.5 * hyp.am_score)


def test_no_frames() -> None:
    lang = char_lang("ab", ["ab"])
    hyp = prefix_beam_search(torch.zeros(1, 0, 4), torch.tensor([0]), lang, SearchOptions())[0]
    assert hyp.words == []
    assert hyp.score == 0.0
