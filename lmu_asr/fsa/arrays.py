"""Finite-state transducers as numpy arrays, and the OpenFst binary format that holds them on disk.

Bulk work on arcs (relabelling, scaling, conversion between engines) is vectorised here; the
automata operations are kaldifst's. Legend: S states, E arcs.
"""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kaldifst
import numpy as np

from lmu_asr.errors import GraphError

# OpenFst's kFstMagicNumber and the property bit kExpanded
MAGIC = 2125659606
EXPANDED = 1
CONST_STATE = np.dtype(
    [("final", "<f4"), ("offset", "<u4"), ("arcs", "<u4"), ("ieps", "<u4"), ("oeps", "<u4")]
)
ARC = np.dtype([("ilabel", "<i4"), ("olabel", "<i4"), ("weight", "<f4"), ("dst", "<i4")])
LATTICE_ARC = np.dtype(
    [("ilabel", "<i4"), ("olabel", "<i4"), ("graph", "<f4"), ("acoustic", "<f4"), ("dst", "<i4")]
)


@dataclass(frozen=True)
class FstArrays:
    """A transducer over the tropical semiring: weights are costs, negative log probabilities.

    Attributes:
        src: (E,) int32, source states in ascending order.
        arcs: (E,) structured array of ``ilabel olabel weight dst``; label 0 is epsilon.
        final: (S,) float32 final costs, infinity where a state is not final.
        start: start state.
    """

    src: np.ndarray
    arcs: np.ndarray
    final: np.ndarray
    start: int = 0

    @property
    def num_states(self) -> int:
        """Number of states."""
        return len(self.final)

    @property
    def num_arcs(self) -> int:
        """Number of arcs."""
        return len(self.arcs)

    def scaled(self, scale: float) -> FstArrays:
        """Return a copy whose costs, those of final states included, are multiplied by ``scale``."""
        arcs = self.arcs.copy()
        arcs["weight"] *= np.float32(scale)
        final = self.final.copy()
        # infinity times a scale of 0 would be NaN
        final[np.isfinite(final)] *= np.float32(scale)
        return replace(self, arcs=arcs, final=final)

    def without_disambiguation(self, num_tokens: int, num_words: int) -> FstArrays:
        """Turn input labels >= ``num_tokens`` and output labels >= ``num_words`` into epsilon."""
        arcs = self.arcs.copy()
        arcs["ilabel"][arcs["ilabel"] >= num_tokens] = 0
        arcs["olabel"][arcs["olabel"] >= num_words] = 0
        return replace(self, arcs=arcs)

    def to_const(self) -> Any:
        """Return a ``kaldifst.StdConstFst``: the compact, read-only form that decoders search."""
        return _through_file(to_const_bytes(self), kaldifst.StdConstFst.read)

    def to_vector(self) -> Any:
        """Return a ``kaldifst.StdVectorFst``: the form that kaldifst's operations change."""
        return kaldifst.StdVectorFst(self.to_const())


def make_arrays(
    src: Any, ilabel: Any, olabel: Any, weight: Any, dst: Any, final: Any, start: int = 0
) -> FstArrays:
    """Build :class:`FstArrays` from columns of length E, in any order of arcs; stable in ``src``."""
    src = np.asarray(src, dtype=np.int32)
    arcs = np.zeros(len(src), dtype=ARC)
    for name, column in (("ilabel", ilabel), ("olabel", olabel), ("weight", weight), ("dst", dst)):
        arcs[name] = column
    order = np.argsort(src, kind="stable")
    return FstArrays(src[order], arcs[order], np.asarray(final, dtype=np.float32), start)


def from_fst(fst: Any) -> FstArrays:
    """Read the arrays of a ``kaldifst`` transducer over the tropical semiring."""
    const = fst if isinstance(fst, kaldifst.StdConstFst) else kaldifst.StdConstFst(fst)
    return from_const_bytes(_written(const), "FST in memory")


def to_const_bytes(fst: FstArrays) -> bytes:
    """Serialise as an OpenFst ``const`` file of arc type ``standard`` (version 2, unaligned)."""
    counts = np.bincount(fst.src, minlength=fst.num_states)
    states = np.zeros(fst.num_states, dtype=CONST_STATE)
    states["final"] = fst.final
    states["arcs"] = counts
    states["offset"] = np.cumsum(counts) - counts
    # OpenFst trusts these counts of epsilons and never counts anew
    for name, label in (("ieps", "ilabel"), ("oeps", "olabel")):
        epsilons = fst.src[fst.arcs[label] == 0]
        states[name] = np.bincount(epsilons, minlength=fst.num_states)
    header = struct.pack("<i", MAGIC) + _string(b"const") + _string(b"standard")
    header += struct.pack("<iiQqqq", 2, 0, EXPANDED, fst.start, fst.num_states, fst.num_arcs)
    return header + states.tobytes() + fst.arcs.tobytes()


def from_const_bytes(data: bytes, source: str) -> FstArrays:
    """Parse an OpenFst ``const`` file of arc type ``standard``; ``source`` names it in errors.

    Raises:
        GraphError: not such a file, or cut short.
    """
    offset, kind, arc_type = _read_header(data, source)
    if kind != b"const" or arc_type != b"standard" or len(data) < offset + 40:
        raise GraphError(f"{source}: want a const FST of standard arcs, got {kind!r} {arc_type!r}")
    version, flags, _, start, num_states, num_arcs = struct.unpack_from("<iiQqqq", data, offset)
    offset += struct.calcsize("<iiQqqq")
    size = num_states * CONST_STATE.itemsize + num_arcs * ARC.itemsize
    if version != 2 or flags != 0 or len(data) != offset + size:
        raise GraphError(
            f"{source}: {len(data)} bytes where {offset + size} belong; cut short or of another"
            " version: compile the graph again"
        )
    states = np.frombuffer(data, CONST_STATE, num_states, offset)
    arcs = np.frombuffer(data, ARC, num_arcs, offset + num_states * CONST_STATE.itemsize)
    src = np.repeat(np.arange(num_states, dtype=np.int32), states["arcs"])
    return FstArrays(src, arcs, states["final"].copy(), start)


@dataclass(frozen=True)
class LatticeArrays:
    """A lattice as kaldi-decoder writes it: two costs on each arc, those of graph and acoustics.

    Attributes:
        src: (E,) int32 source states, ascending.
        arcs: (E,) structured array of ``ilabel olabel graph acoustic dst``.
        final: (S, 2) float32 final costs, infinity where a state is not final.

    State 0 is the start.
    """

    src: np.ndarray
    arcs: np.ndarray
    final: np.ndarray


def from_lattice(lattice: Any) -> LatticeArrays:
    """Read the arrays of a ``kaldifst.Lattice``."""
    data = _written(lattice)
    offset, kind, arc_type = _read_header(data, "lattice in memory")
    if kind != b"vector" or arc_type != b"lattice4":
        raise GraphError(f"want a vector FST of lattice4 arcs, got {kind!r} {arc_type!r}")
    _, _, _, start, num_states, _ = struct.unpack_from("<iiQqqq", data, offset)
    offset += struct.calcsize("<iiQqqq")
    final = np.empty((num_states, 2), dtype=np.float32)
    counts = np.empty(num_states, dtype=np.int64)
    pieces = []
    # records vary in length, each state's arcs stand behind their count: no array can be mapped
    for state in range(num_states):
        graph, acoustic, count = struct.unpack_from("<ffq", data, offset)
        final[state] = graph, acoustic
        counts[state] = count
        end = offset + 16 + count * LATTICE_ARC.itemsize
        pieces.append(data[offset + 16 : end])
        offset = end
    arcs = np.frombuffer(b"".join(pieces), LATTICE_ARC).copy()
    src = np.repeat(np.arange(num_states, dtype=np.int32), counts)
    # an empty FST has -1 as its start
    return _starting_at_zero(src, arcs, final, max(start, 0))


def _starting_at_zero(
    src: np.ndarray, arcs: np.ndarray, final: np.ndarray, start: int
) -> LatticeArrays:
    """Exchange the numbers of the start state and of state 0."""
    swap = np.arange(len(final), dtype=np.int32)
    if len(swap):
        swap[[0, start]] = swap[[start, 0]]
    src = swap[src]
    arcs["dst"] = swap[arcs["dst"]]
    order = np.argsort(src, kind="stable")
    return LatticeArrays(src[order], arcs[order], final[swap])


def _string(text: bytes) -> bytes:
    return struct.pack("<i", len(text)) + text


def _read_header(data: bytes, source: str) -> tuple[int, bytes, bytes]:
    """Return the offset behind the two type names, and the names."""
    if len(data) < 12 or struct.unpack_from("<i", data)[0] != MAGIC:
        raise GraphError(f"{source}: not an OpenFst binary file")
    names = []
    offset = 4
    for _ in range(2):
        (length,) = struct.unpack_from("<i", data, offset)
        if not 0 < length < 64 or len(data) < offset + 4 + length + 4:
            raise GraphError(f"{source}: OpenFst header cut short")
        names.append(data[offset + 4 : offset + 4 + length])
        offset += 4 + length
    return offset, names[0], names[1]


def _through_file(data: bytes, read: Any) -> Any:
    with tempfile.NamedTemporaryFile(suffix=".fst") as stream:
        stream.write(data)
        stream.flush()
        return read(stream.name)


def _written(fst: Any) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".fst") as stream:
        fst.write(stream.name)
        return Path(stream.name).read_bytes()
