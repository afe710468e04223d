"""From a path through a graph to a hypothesis: words, tokens, their frames and spans."""

from __future__ import annotations

from lmu_asr.fsa.engine import Hypothesis, SearchOptions, collapse
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.lattice import Path
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.lexicon import SILENCE


def hypothesis_from_path(path: Path, graph: Graph, options: SearchOptions) -> Hypothesis:
    """Build the hypothesis of ``path``, found in ``graph`` under the scales of ``options``."""
    tokens, times = collapse(path.alignment)
    if graph.kind == "H":
        words = graph.lang.decode(path.words).split()
    else:
        words = [graph.lang.words[word] for word in path.words]
    return Hypothesis(
        words=words,
        tokens=tokens,
        times=times,
        score=options.acoustic_scale * path.am_score + options.lm_scale * path.lm_score,
        am_score=path.am_score,
        lm_score=path.lm_score,
        alignment=list(path.alignment),
        word_spans=word_spans(words, tokens, path.alignment, graph.lang),
    )


def word_spans(
    words: list[str], tokens: list[int], alignment: tuple[int, ...] | list[int], lang: Lang
) -> list[tuple[int, int]]:
    """First frame and end frame (exclusive) of each word, from the frames of its tokens.

    Tokens are shared out to words by matching pronunciations in order; tokens that belong to no
    word (optional silence) are passed over. Empty where the tokens do not spell the words.
    """
    runs = _runs(alignment)
    cuts = _segment(words, tokens, lang)
    if cuts is None or len(runs) != len(tokens):
        return []
    return [(runs[begin][0], runs[end - 1][1]) for begin, end in cuts]


def _runs(alignment: tuple[int, ...] | list[int]) -> list[tuple[int, int]]:
    """First and end frame of each run of one non-blank token."""
    runs: list[tuple[int, int]] = []
    previous = 0
    for frame, token in enumerate(alignment):
        if token and token == previous:
            runs[-1] = (runs[-1][0], frame + 1)
        elif token:
            runs.append((frame, frame + 1))
        previous = token
    return runs


def _segment(words: list[str], tokens: list[int], lang: Lang) -> list[tuple[int, int]] | None:
    """Token range of each word; None where there is no way to spell ``words`` by ``tokens``."""
    silence = lang.token_ids.get(SILENCE, -1)
    ends: list[dict[int, int]] = [{0: 0}]  # after each word: end -> begin of that word
    for word in words:
        reached: dict[int, int] = {}
        for before in ends[-1]:
            begins = [before]
            if before < len(tokens) and tokens[before] == silence:
                begins.append(before + 1)
            for begin in begins:
                for pron in lang.pronunciations.get(word, ()):
                    end = begin + len(pron)
                    if tokens[begin:end] == [lang.token_ids[t] for t in pron]:
                        reached.setdefault(end, begin)
        ends.append(reached)
    tail = [e for e in ends[-1] if all(token == silence for token in tokens[e:])]
    if not tail:
        return None
    cuts: list[tuple[int, int]] = []
    end = tail[0]
    for reached in reversed(ends[1:]):
        begin = reached[end]
        cuts.append((begin, end))
        end = begin if begin in ends[len(words) - len(cuts)] else begin - 1
    return cuts[::-1]
