"""Forced alignment against every path, and as CTM and TextGrid."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from lmu_asr.decoding.align import align_batch, align_utterance, viterbi_alignment
from lmu_asr.decoding.times import hypothesis_spans, write_ctm, write_textgrid
from lmu_asr.errors import DataError, LangError
from lmu_asr.fsa.hypothesis import Hypothesis
from tests.decoding.small import log_probs
from tests.fsa.small import collapse_reference, make_lang

LEXICON = [("a", ("x",)), ("a", ("x", "y")), ("b", ("y", "y")), ("c", ("SIL", "x"))]


def best_of(scores: np.ndarray, allowed: list[tuple[int, ...]]) -> tuple[tuple[int, ...], float]:
    paths = itertools.product(range(scores.shape[1]), repeat=len(scores))
    ranked = [
        (float(sum(scores[t, token] for t, token in enumerate(path))), path)
        for path in paths
        if collapse_reference(path) in allowed
    ]
    score, path = max(ranked)
    return path, score


@pytest.mark.parametrize("tokens", [[], [1], [1, 1], [1, 2], [2, 1, 2], [1, 1, 1]])
def test_viterbi_alignment_is_the_best_path(tokens: list[int]) -> None:
    for seed in range(6):
        scores = log_probs(np.random.default_rng(seed), 6, 3)
        expected, score = best_of(scores, [tuple(tokens)])
        path, found = viterbi_alignment(scores, tokens)
        assert tuple(path) == expected
        assert found == pytest.approx(score, abs=1e-4)


def test_too_few_frames() -> None:
    with pytest.raises(DataError, match="2 frames cannot carry 2 tokens"):
        viterbi_alignment(log_probs(np.random.default_rng(0), 2, 3), [1, 1])
    assert viterbi_alignment(np.zeros((0, 3), dtype=np.float32), []) == ([], 0.0)


@pytest.mark.parametrize("text", ["a", "a a", "b", "a b", ""])
def test_alignment_tries_every_pronunciation_and_silence(text: str) -> None:
    lang, _ = make_lang(LEXICON)
    ids = lang.token_ids
    ways: list[tuple[int, ...]] = [(), (ids["SIL"],)]
    for word in text.split():
        prons = [tuple(ids[t] for t in p) for w, p in LEXICON if w == word]
        ways = [
            (*way, *pron, *quiet) for way in ways for pron in prons for quiet in ((), (ids["SIL"],))
        ]
    for seed in range(4):
        scores = log_probs(np.random.default_rng(seed), 6, lang.vocab_size)
        expected, score = best_of(scores, ways)
        found = align_utterance(scores, text, lang)
        assert tuple(found.path) == expected
        assert found.score == pytest.approx(score, abs=1e-4)
        assert [span.label for span in found.words] == text.split()
        for span in found.words:
            tokens = collapse_reference(expected[span.begin : span.end])
            assert tuple(lang.tokens[t] for t in tokens) in [
                p for w, p in LEXICON if w == span.label
            ]


def test_spans_and_confidences() -> None:
    lang, _ = make_lang(LEXICON)
    ids = lang.token_ids
    frames = [0, ids["x"], ids["x"], ids["y"], 0, ids["SIL"], ids["y"], 0, ids["y"]]
    logits = 5.0 * torch.nn.functional.one_hot(torch.tensor([frames, frames]), lang.vocab_size)
    batch = torch.log_softmax(logits, -1)
    found = align_batch(batch, torch.tensor([9, 9]), ["a b", "a b"], lang, ["u1", "u2"])[1]
    chance = float(batch.max().exp())
    assert [(s.label, s.begin, s.end) for s in found.words] == [("a", 1, 4), ("b", 6, 9)]
    assert [(s.label, s.begin, s.end) for s in found.tokens] == [
        ("x", 1, 3),
        ("y", 3, 4),
        ("SIL", 5, 6),
        ("y", 6, 7),
        ("y", 8, 9),
    ]
    assert found.words[0].confidence == pytest.approx(chance, rel=1e-5)
    with pytest.raises(
        DataError, match=r"utterance u2: 2 frames cannot carry 'a b', which needs 4"
    ):
        align_batch(batch, torch.tensor([9, 2]), ["a b", "a b"], lang, ["u1", "u2"])
    with pytest.raises(LangError, match="'z' has no pronunciation"):
        align_batch(batch, torch.tensor([9, 9]), ["a", "z"], lang)


def test_ctm_and_textgrid(tmp_path: Path) -> None:
    hyp = Hypothesis(["ab", 'c"'], [1, 2], [2.0, 8.0], 0.0, word_spans=[(2, 5), (8, 9)])
    hyp.confidences = [0.75, 1.0]
    spans = hypothesis_spans(hyp)
    write_ctm(tmp_path / "a.ctm", {"u1": spans, "u2": []}, 0.04)
    assert (tmp_path / "a.ctm").read_text() == (
        'u1 1 0.080 0.120 ab 0.7500\nu1 1 0.320 0.040 c" 1.0000\n'
    )
    write_textgrid(tmp_path / "a.TextGrid", {"words": spans, "tokens": []}, 10, 0.04)
    text = (tmp_path / "a.TextGrid").read_text()
    assert text.startswith(
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 0.4\n'
    )
    assert "intervals: size = 5" in text
    assert 'text = "c"""' in text
    assert text.count("intervals: size = 1\n") == 1
    unknown = Hypothesis(["ab"], [1], [0.0], 0.0)
    assert hypothesis_spans(unknown) == []
