"""Pronunciation lexica: reading them, disambiguation symbols, and the lexicon transducer L.

A lexicon is a list of ``(word, (token, token, ...))``. In L the input labels are token ids, where 0
is epsilon (the blank, also id 0, never stands in a lexicon), and the output labels are word ids.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmu_asr.errors import LangError
from lmu_asr.lang.openfst import FstColumns
from lmu_asr.text_lines import text_lines

Pronunciation = tuple[str, ...]
Entry = tuple[str, Pronunciation]

SILENCE = "SIL"
# that of Kaldi's prepare_lang.sh
SILENCE_PROBABILITY = 0.5


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 text file (see :func:`lmu_asr.text_lines.text_lines`).

    Raises:
        LangError: no such file, or no text (naming the line).
    """
    return [line for _, line in text_lines(path, LangError)]


def add_disambig(lexicon: Sequence[Entry]) -> tuple[list[Entry], int]:
    """Append ``#1 #2 ...`` so that no token sequence is shared by entries or is a prefix of another.

    Returns the new lexicon and the largest number used (0: none). ``#0`` stays free for the
    back-off arcs of the grammar. The rule is Kaldi's ``add_lex_disambig``.
    """
    count = Counter(tokens for _, tokens in lexicon)
    # only a prefix as long as some entry can be one: the number of all prefixes grows as the square
    lengths = sorted({len(tokens) for tokens in count})
    prefixes = {tokens[:end] for tokens in count for end in lengths if end < len(tokens)}
    used: Counter[Pronunciation] = Counter()
    entries: list[Entry] = []
    for word, tokens in lexicon:
        if count[tokens] > 1 or tokens in prefixes:
            used[tokens] += 1
            tokens = (*tokens, f"#{used[tokens]}")
        entries.append((word, tokens))
    return entries, max(used.values(), default=0)


@dataclass(frozen=True)
class SilenceIds:
    """Token ids of the optional silence and, in L_disambig, of its own disambiguation symbol."""

    silence: int
    disambig: int | None = None


def lexicon_fst(
    lexicon: Sequence[Entry],
    token_ids: Mapping[str, int],
    word_ids: Mapping[str, int],
    self_loop: tuple[int, int] | None = None,
    silence: SilenceIds | None = None,
) -> FstColumns:
    """Build L: a loop over the words, tokens in and words out, arcs sorted by output label.

    ``self_loop`` is ``(token id, word id)`` of ``#0`` for L_disambig, so that composition carries
    the grammar's back-off symbol through. With ``silence`` each word may be followed, and the
    sentence preceded, by silence (Kaldi's ``make_lexicon_fst``, probability one half).
    """
    lengths = np.array([len(tokens) for _, tokens in lexicon], dtype=np.int64)
    ilabel = np.array([token_ids[t] for _, tokens in lexicon for t in tokens], dtype=np.int64)
    words = np.array([word_ids[word] for word, _ in lexicon], dtype=np.int64)
    loop = 0 if silence is None else 1
    hub_states = 1 if silence is None else 3 + (silence.disambig is not None)
    fst = _word_arcs(lengths, ilabel, words, loop, hub_states)
    if silence is not None:
        fst = _add_silence(fst, silence)
    if self_loop is not None:
        fst = _append(fst, [(loop, loop, self_loop[0], self_loop[1], 0.0)])
    return fst.sorted("olabel")


def _word_arcs(
    lengths: np.ndarray, ilabel: np.ndarray, words: np.ndarray, loop: int, hub_states: int
) -> FstColumns:
    """Chain each entry's tokens from the loop state and back to it; the word is on the first arc."""
    arcs = np.arange(len(ilabel), dtype=np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    entry = np.repeat(np.arange(len(lengths)), lengths)
    inner = arcs - entry + hub_states  # entry e owns lengths[e] - 1 inner states
    src, dst, olabel = inner - 1, inner.copy(), np.zeros_like(arcs)
    src[starts], dst[ends - 1], olabel[starts] = loop, loop, words
    final = np.full(hub_states + len(arcs) - len(lengths), np.inf)
    final[loop] = 0.0
    return FstColumns(src, dst, ilabel, olabel, np.zeros(len(arcs)), final)


def _add_silence(fst: FstColumns, silence: SilenceIds) -> FstColumns:
    """States 0 start, 1 loop, 2 before silence, 3 before the silence's disambiguation symbol."""
    with_cost = -math.log(SILENCE_PROBABILITY)
    without_cost = -math.log(1.0 - SILENCE_PROBABILITY)
    last = fst.dst == 1
    extra = [
        (int(s), 2, int(i), int(o), with_cost)
        for s, i, o in zip(fst.src[last], fst.ilabel[last], fst.olabel[last], strict=True)
    ]
    fst.cost[last] = without_cost
    extra += [(0, 1, 0, 0, without_cost), (0, 2, 0, 0, with_cost)]
    if silence.disambig is None:
        extra.append((2, 1, silence.silence, 0, 0.0))
    else:
        extra += [(2, 3, silence.silence, 0, 0.0), (3, 1, silence.disambig, 0, 0.0)]
    return _append(fst, extra)


def _append(fst: FstColumns, arcs: list[tuple[int, int, int, int, float]]) -> FstColumns:
    src, dst, ilabel, olabel, cost = (np.array(column) for column in zip(*arcs, strict=True))
    return FstColumns(
        np.concatenate([fst.src, src]),
        np.concatenate([fst.dst, dst]),
        np.concatenate([fst.ilabel, ilabel]),
        np.concatenate([fst.olabel, olabel]),
        np.concatenate([fst.cost, cost]),
        fst.final,
        fst.start,
    )
