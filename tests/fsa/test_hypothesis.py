"""From paths to hypotheses: words get the frames of their tokens."""

import numpy as np
import pytest

from lmu_asr.fsa.hypothesis import collapse, word_spans
from tests.fsa.small import collapse_reference, make_lang

LEXICON = [
    ("a", ("x",)),
    ("ab", ("x", "y")),
    ("ab", ("x", "x", "y")),
    ("b", ("y",)),
    ("quiet", ("SIL", "x")),
]


def spans(words: str, path: str) -> list[tuple[int, int]]:
    lang, _ = make_lang(LEXICON)
    names = {"-": 0, "x": lang.token_ids["x"], "y": lang.token_ids["y"], "S": lang.token_ids["SIL"]}
    alignment = [names[c] for c in path]
    tokens, _ = collapse(alignment)
    return word_spans(words.split(), tokens, alignment, lang)


@pytest.mark.parametrize(
    ("words", "path", "expected"),
    [
        ("a b", "-xx--y-", [(1, 3), (5, 6)]),
        ("ab", "-xx--y-", [(1, 6)]),
        ("ab a", "x-xyx", [(0, 4), (4, 5)]),
        ("a ab", "x-x-y", [(0, 1), (2, 5)]),
        ("a b", "SxSS-yS", [(1, 2), (5, 6)]),
        ("quiet b", "Sxy", [(0, 2), (2, 3)]),
        ("a quiet", "xS-Sx", [(0, 1), (3, 5)]),
        ("", "---", []),
        ("", "SS", []),
        ("b", "x", []),
        ("a", "xy", []),
    ],
)
def test_spans(words: str, path: str, expected: list[tuple[int, int]]) -> None:
    assert spans(words, path) == expected


def test_collapse_gives_tokens_and_first_frames() -> None:
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0]) == ([1, 1, 2], [1.0, 4.0, 5.0])
    assert collapse([]) == ([], [])
    rng = np.random.default_rng(0)
    for _ in range(50):
        path = rng.integers(0, 3, size=12).tolist()
        tokens, times = collapse(path)
        assert tuple(tokens) == collapse_reference(path)
        assert [path[int(t)] for t in times] == tokens
