"""OpenFst binary files written from arrays: fast, bounded in memory, equal bytes for equal input.

Shape legend: A arcs, S states. Labels are symbol ids with 0 as epsilon; costs are negative natural
log probabilities (the tropical semiring), infinite where a state is not final.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmu_asr.errors import LangError
from lmu_asr.files import atomic_write_bytes

_MAGIC = 2125659606
_VERSION = 2
_STATIC_PROPERTIES = 3  # expanded and mutable: everything else is left for OpenFst to find out


@dataclass
class FstColumns:
    """A transducer as arrays: ``src dst ilabel olabel`` (A,) int, ``cost`` (A,), ``final`` (S,)."""

    src: np.ndarray
    dst: np.ndarray
    ilabel: np.ndarray
    olabel: np.ndarray
    cost: np.ndarray
    final: np.ndarray
    start: int = 0

    def sorted(self, by: str) -> FstColumns:
        """Return the arcs ordered by source state, then by ``ilabel`` or ``olabel``, then the rest."""
        first, second = (self.ilabel, self.olabel) if by == "ilabel" else (self.olabel, self.ilabel)
        order = np.lexsort((self.cost, self.dst, second, first, self.src))
        return FstColumns(
            self.src[order],
            self.dst[order],
            self.ilabel[order],
            self.olabel[order],
            self.cost[order],
            self.final,
            self.start,
        )


def fst_bytes(fst: FstColumns) -> bytes:
    """Return the OpenFst binary of ``fst`` (type vector, arc type standard); arcs grouped by source."""
    num_states, num_arcs = len(fst.final), len(fst.src)
    counts = np.bincount(fst.src, minlength=num_states).astype(np.int64)
    before = np.concatenate([[0], np.cumsum(counts)])[:-1]
    # a state is its final cost and the int64 count of its arcs, 12 bytes; an arc has 16
    words = np.empty(3 * num_states + 4 * num_arcs, dtype="<i4")
    head = 3 * np.arange(num_states, dtype=np.int64) + 4 * before
    words[head] = fst.final.astype("<f4").view("<i4")
    words[head + 1] = counts
    # upper half of the count
    words[head + 2] = 0
    at = 3 * (fst.src.astype(np.int64) + 1) + 4 * np.arange(num_arcs, dtype=np.int64)
    words[at] = fst.ilabel
    words[at + 1] = fst.olabel
    words[at + 2] = fst.cost.astype("<f4").view("<i4")
    words[at + 3] = fst.dst
    return _header(fst.start, num_states, num_arcs) + words.tobytes()


def _header(start: int, num_states: int, num_arcs: int) -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<i", len(value)) + value

    fixed = struct.pack(
        "<iiQqqq",
        _VERSION,
        0,
        _STATIC_PROPERTIES,
        start if num_states else -1,
        num_states,
        num_arcs,
    )
    return struct.pack("<i", _MAGIC) + text(b"vector") + text(b"standard") + fixed


def write_fst(path: str | Path, fst: FstColumns) -> None:
    """Write ``fst`` atomically; arcs must be grouped by source state (see :meth:`FstColumns.sorted`)."""
    atomic_write_bytes(path, fst_bytes(fst))


def read_fst(path: str | Path) -> FstColumns:
    """Read an OpenFst binary of type vector and arc type standard, without symbol tables.

    Raises:
        LangError: not such a file, or one that ends early.
    """
    data = Path(path).read_bytes()
    # magic number and the two type names with their lengths
    prefix = _header(0, 1, 0)[:26]
    size = len(prefix) + 40
    if data[: len(prefix)] != prefix or len(data) < size:
        raise LangError(f"{path}: not an OpenFst binary of type vector and arc type standard")
    _, flags, _, start, num_states, num_arcs = struct.unpack("<iiQqqq", data[len(prefix) : size])
    # bits of OpenFst's header: a table of input symbols, one of output symbols
    if flags & 3:
        raise LangError(f"{path}: holds symbol tables; write it without")
    rest = len(data) - size - 12 * num_states
    arcs = rest // 16
    # OpenFst itself leaves the count of arcs at 0
    if num_states < 0 or rest < 0 or rest % 16 or num_arcs not in (0, arcs):
        raise LangError(
            f"{path}: {len(data)} bytes do not hold {num_states} states: the file is cut"
        )
    return _parse(path, np.frombuffer(data, dtype="<i4", offset=size), start, num_states, arcs)


def _parse(path: str | Path, words: np.ndarray, start: int, states: int, arcs: int) -> FstColumns:
    heads, counts = array("q"), array("q")
    # a memoryview gives plain ints, much faster one by one than an array's elements
    fast, at, total = memoryview(words.tobytes()).cast("i"), 0, len(words)
    for state in range(states):
        if at + 3 > total:
            raise LangError(f"{path}: state {state} lies past the end of the file")
        heads.append(at)
        counts.append(fast[at + 1])
        at += 3 + 4 * max(fast[at + 1], 0)
    if at != total or sum(counts) != arcs:
        raise LangError(f"{path}: arc counts of its states do not add up to {arcs}")
    src = np.repeat(np.arange(states), np.array(counts, dtype=np.int64))
    index = 3 * (src + 1) + 4 * np.arange(arcs)
    cost = words[index + 2].view("<f4").astype(np.float64)
    final = words[np.array(heads, dtype=np.int64)].view("<f4").astype(np.float64)
    return FstColumns(src, words[index + 3], words[index], words[index + 1], cost, final, start)
