"""Checks of the lexicon transducers L and L_disambig.

Shape legend: A arcs, S states.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from lmu_asr.lang.lang import BOS, EOS
from lmu_asr.lang.lang_files import FSTS, TABLES, LangFiles, Registry, is_disambig
from lmu_asr.lang.lexicon import SILENCE, SilenceIds, lexicon_fst
from lmu_asr.lang.openfst import FstColumns, fst_bytes

CHECKS = Registry()


@CHECKS.check("is an OpenFst binary", *FSTS)
def _readable(files: LangFiles, name: str) -> Iterator[str]:
    if fault := files.fst_fault(name):
        yield fault


@CHECKS.check("has a start state", *FSTS)
def _start(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is not None and not 0 <= fst.start < len(fst.final):
        yield f"{files.at(name)}: start state {fst.start}, of {len(fst.final)} states"


@CHECKS.check("has a final state", *FSTS)
def _final(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is not None and not np.isfinite(fst.final).any():
        yield f"{files.at(name)}: none of {len(fst.final)} states is final"


@CHECKS.check("has arcs to its own states", *FSTS)
def _targets(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is not None and not _sound(fst):
        bad = np.flatnonzero((fst.dst < 0) | (fst.dst >= len(fst.final)))
        if len(bad):
            yield f"{files.at(name)}: arc {bad[0]} leads to state {fst.dst[bad[0]]}"


@CHECKS.check("has input labels of tokens.txt", *FSTS, needs=TABLES)
def _input_range(files: LangFiles, name: str) -> Iterator[str]:
    yield from _range(files, name, "tokens.txt")


@CHECKS.check("has output labels of words.txt", *FSTS, needs=TABLES)
def _output_range(files: LangFiles, name: str) -> Iterator[str]:
    yield from _range(files, name, "words.txt")


def _range(files: LangFiles, name: str, table: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None:
        return
    labels = fst.ilabel if table == "tokens.txt" else fst.olabel
    size = len(files.lines(table))
    bad = np.flatnonzero((labels < 0) | (labels >= size))
    if len(bad):
        yield f"{files.at(name)}: arc {bad[0]} has label {labels[bad[0]]}, {table} ends at {size - 1}"


@CHECKS.check("has costs that are finite and not below 0", *FSTS)
def _costs(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None:
        return
    bad = np.flatnonzero(~np.isfinite(fst.cost) | (fst.cost < 0))
    if len(bad):
        yield f"{files.at(name)}: arc {bad[0]} costs {fst.cost[bad[0]]}"
    if np.isnan(fst.final).any() or (fst.final < 0).any():
        yield f"{files.at(name)}: a final cost is below 0 or not a number"


@CHECKS.check("reaches every state from the start", *FSTS)
def _accessible(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is not None and _sound(fst):
        reached = breadth_first_order(_graph(fst), fst.start, return_predecessors=False)
        if len(reached) < len(fst.final):
            lost = np.setdiff1d(np.arange(len(fst.final)), reached)
            yield f"{files.at(name)}: state {lost[0]} is not reached from the start"


@CHECKS.check("reaches a final state from every state", *FSTS)
def _coaccessible(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None or not _sound(fst):
        return
    states = len(fst.final)
    ends = np.flatnonzero(np.isfinite(fst.final))
    # one state more, which leads to all final ones: a single search goes backward from it
    src = np.concatenate([fst.dst, np.full(len(ends), states)])
    dst = np.concatenate([fst.src, ends])
    backward = csr_matrix((np.ones(len(src)), (src, dst)), shape=(states + 1, states + 1))
    reached = breadth_first_order(backward, states, return_predecessors=False)
    if len(reached) < states + 1:
        lost = np.setdiff1d(np.arange(states), reached)
        yield f"{files.at(name)}: no final state is reached from state {lost[0]}"


@CHECKS.check("has arcs sorted by output label", *FSTS)
def _sorted(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None:
        return
    bad = np.flatnonzero((np.diff(fst.src) == 0) & (np.diff(fst.olabel) < 0))
    if len(bad):
        yield f"{files.at(name)}: arcs of state {fst.src[bad[0]]} are not sorted by output label"


@CHECKS.check("has no cycle without input", *FSTS)
def _epsilon_cycle(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None or not _sound(fst):
        return
    empty = fst.ilabel == 0
    size = len(fst.final)
    graph = csr_matrix((np.ones(empty.sum()), (fst.src[empty], fst.dst[empty])), shape=(size, size))
    # a cycle makes one component of its states; a loop at one state does not show so
    count, _ = connected_components(graph, directed=True, connection="strong")
    if count < size or (empty & (fst.src == fst.dst)).any():
        yield f"{files.at(name)}: a cycle of arcs that read no token"


@CHECKS.check("carries no disambiguation symbol", "L.fst", needs=TABLES)
def _no_disambig(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None:
        return
    marks = {i: s for s, i in files.ids("tokens.txt").items() if is_disambig(s)}
    found = sorted(marks.keys() & set(np.unique(fst.ilabel).tolist()))
    if found:
        yield f"{files.at(name)}: input label {marks[found[0]]} belongs to L_disambig.fst"
    if files.ids("words.txt").get("#0", -1) in fst.olabel:
        yield f"{files.at(name)}: output label #0 belongs to L_disambig.fst"


@CHECKS.check("carries no <s> or </s>", *FSTS, needs=TABLES)
def _no_sentence_symbols(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None:
        return
    for symbol in (BOS, EOS):
        if files.ids("words.txt").get(symbol, -1) in fst.olabel:
            yield f"{files.at(name)}: output label {symbol}, which only a grammar reads"


@CHECKS.check("passes #0 through where words begin", "L_disambig.fst", needs=TABLES)
def _self_loop(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None:
        return
    token, word = files.ids("tokens.txt").get("#0", -1), files.ids("words.txt").get("#0", -1)
    loops = (fst.src == fst.dst) & (fst.ilabel == token) & (fst.olabel == word)
    begins = np.unique(fst.src[(fst.olabel > 0) & (fst.olabel != word)])
    missing = np.setdiff1d(begins, fst.src[loops])
    if len(missing):
        yield f"{files.at(name)}: state {missing[0]} begins words but has no loop #0:#0"
    if ((fst.olabel == word) != (fst.ilabel == token)).any():
        yield f"{files.at(name)}: an arc has #0 on one side alone"


@CHECKS.check("uses every disambiguation symbol of tokens.txt", "L_disambig.fst", needs=TABLES)
def _all_marks(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None:
        return
    used = set(np.unique(fst.ilabel).tolist())
    for symbol, index in files.ids("tokens.txt").items():
        if is_disambig(symbol) and index not in used:
            yield f"{files.at(name)}: no arc reads {symbol}"


@CHECKS.check("holds every word of words.txt", *FSTS, needs=TABLES)
def _all_words(files: LangFiles, name: str) -> Iterator[str]:
    fst = files.fst(name)
    if fst is None:
        return
    there = set(np.unique(fst.olabel).tolist())
    for word, index in files.ids("words.txt").items():
        if index and index not in there and word not in ("#0", BOS, EOS):
            yield f"{files.at(name)}: no arc gives {word!r}"


@CHECKS.check("is the transducer of lexicon.txt", "L.fst", needs=(*TABLES, "lexicon.txt"))
def _is_lexicon(files: LangFiles, name: str) -> Iterator[str]:
    yield from _differs(files, name, "lexicon.txt")


@CHECKS.check(
    "is the transducer of lexicon_disambig.txt",
    "L_disambig.fst",
    needs=(*TABLES, "lexicon_disambig.txt"),
)
def _is_lexicon_disambig(files: LangFiles, name: str) -> Iterator[str]:
    yield from _differs(files, name, "lexicon_disambig.txt")


def _differs(files: LangFiles, name: str, lexicon: str) -> Iterator[str]:
    tokens, words = files.ids("tokens.txt"), files.ids("words.txt")
    entries = [(line.fields[0], line.fields[1:]) for line in files.lines(lexicon)]
    fine = all(word in words and t and tokens.keys() >= set(t) for word, t in entries)
    if not (fine and entries and {"#0"} <= tokens.keys() & words.keys()):
        return
    marked = name == "L_disambig.fst"
    last = max(i for s, i in tokens.items() if is_disambig(s))
    silence = None
    if files.silence and SILENCE in tokens:
        silence = SilenceIds(tokens[SILENCE], last if marked else None)
    loop = (tokens["#0"], words["#0"]) if marked else None
    want = lexicon_fst(entries, tokens, words, loop, silence)
    if fst_bytes(want) != files.data(name):
        yield (
            f"{files.at(name)}: not what {lexicon} gives "
            f"({len(want.final)} states and {len(want.src)} arcs): one was changed without the other"
        )


def _graph(fst: FstColumns) -> csr_matrix:
    size = len(fst.final)
    return csr_matrix((np.ones(len(fst.src)), (fst.src, fst.dst)), shape=(size, size))


def _sound(fst: FstColumns) -> bool:
    """Whether states and arcs refer to each other as they must before a graph can be walked."""
    size = len(fst.final)
    return 0 <= fst.start < size and bool(((fst.dst >= 0) & (fst.dst < size)).all())
