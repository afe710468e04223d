"""The n-gram as a machine gives what the model gives, context by context."""

import math

import numpy as np
import pytest

from lmu_asr.decoding.searches.ngram import OOV_LOGPROB, NgramScorer
from lmu_asr.lang.ngram import prune, train_ngram

HAND = """\\data\\
ngram 1=4
ngram 2=2
ngram 3=1

\\1-grams:
-1.0\t</s>
-99\t<s>\t-0.5
-0.5\ta\t-0.25
-0.75\tb\t-0.125

\\2-grams:
-0.2\t<s> a\t-0.0625
-0.3\ta b

\\3-grams:
-0.1\t<s> a b

\\end\\
"""


def test_hand_worked_model(tmp_path) -> None:
    (tmp_path / "G.arpa").write_text(HAND)
    scorer = NgramScorer.load(tmp_path / "G.arpa")
    steps = {
        "a b": -0.2 - 0.1 + (0.0 - 0.125 - 1.0),  # <s> a | <s> a b | back off twice to </s>
        "b a": (-0.5 - 0.75) + (-0.125 - 0.5) + (-0.25 - 1.0),
        "a a": -0.2 + (-0.0625 - 0.25 - 0.5) + (-0.25 - 1.0),
        "": -0.5 - 1.0,
    }
    for text, expected in steps.items():
        assert scorer.score(text.split()) == pytest.approx(expected * math.log(10)), text


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_equals_the_model_on_random_sentences(order: int) -> None:
    rng = np.random.default_rng(order)
    words = list("abcde")
    text = [" ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(60)]
    models = [train_ngram(text, order)]
    if order > 1:
        models.append(prune(models[0], 1e-2))
    for model in models:
        scorer = NgramScorer(model)
        for _ in range(30):
            sentence = rng.choice(words, size=rng.integers(0, 8)).tolist()
            expected = model.score(sentence) * math.log(10)
            assert scorer.score(sentence) == pytest.approx(expected, abs=1e-9)


def test_word_outside_a_closed_vocabulary_is_dear_and_forgets_the_context(tmp_path) -> None:
    (tmp_path / "G.arpa").write_text(HAND)
    scorer = NgramScorer.load(tmp_path / "G.arpa")
    score, state = scorer.step(scorer.start, "never")
    assert score == OOV_LOGPROB
    assert scorer.step(state, "a")[0] == pytest.approx(-0.5 * math.log(10))


SKIPPING = """\\data\\
ngram 1=5
ngram 2=2
ngram 3=1

\\1-grams:
-1.0\t</s>
-0.5\ta\t-0.25
-0.75\tb\t-0.125
-0.625\tc\t-0.375
-0.875\td

\\2-grams:
-0.3\tc a
-0.2\tb d

\\3-grams:
-0.1\tc a b

\\end\\
"""


def test_context_falls_to_the_longest_suffix_that_the_model_holds(tmp_path) -> None:
    """After "c a b" the model knows no "a b", but it does know "b": "b d" is not lost."""
    (tmp_path / "G.arpa").write_text(SKIPPING)
    scorer = NgramScorer.load(tmp_path / "G.arpa")
    expected = -0.625 - 0.3 - 0.1 - 0.2 - 1.0
    assert scorer.score(["c", "a", "b", "d"]) == pytest.approx(expected * math.log(10))
