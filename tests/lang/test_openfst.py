"""OpenFst binaries: what OpenFst reads is what was written, and broken files are refused."""

from __future__ import annotations

from pathlib import Path

import kaldifst
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.errors import LangError
from lmu_asr.lang.openfst import FstColumns, fst_bytes, read_fst, write_fst

COSTS = st.floats(0, 10, width=32)


@st.composite
def fsts(draw: st.DrawFn) -> FstColumns:
    states = draw(st.integers(1, 6))
    state = st.integers(0, states - 1)
    label = st.integers(0, 9)
    arcs = sorted(draw(st.lists(st.tuples(state, state, label, label, COSTS), max_size=12)))
    final = draw(st.lists(COSTS | st.just(float("inf")), min_size=states, max_size=states))
    columns = list(zip(*arcs, strict=True)) or [(), (), (), (), ()]
    labels = [np.array(column, dtype=np.int64) for column in columns[:4]]
    return FstColumns(*labels, np.array(columns[4], dtype=float), np.array(final), draw(state))


def arcs_of(fst: FstColumns) -> list[tuple]:
    return list(zip(fst.src, fst.dst, fst.ilabel, fst.olabel, fst.cost, strict=True))


@settings(max_examples=60, deadline=None)
@given(fsts())
def test_openfst_reads_what_was_written(fst: FstColumns) -> None:
    path = Path(_directory) / "a.fst"
    write_fst(path, fst)
    read = kaldifst.StdVectorFst.read(str(path))
    assert (read.start, read.num_states) == (fst.start, len(fst.final))
    assert [read.final(s).value for s in range(read.num_states)] == fst.final.tolist()
    found = [
        (s, a.nextstate, a.ilabel, a.olabel, a.weight.value)
        for s in range(read.num_states)
        for a in kaldifst.ArcIterator(read, s)
    ]
    assert found == arcs_of(fst)
    again = read_fst(path)
    assert arcs_of(again) == arcs_of(fst) and again.start == fst.start
    # OpenFst itself writes the same states and arcs
    read.write(str(path))
    assert arcs_of(read_fst(path)) == arcs_of(fst)


@pytest.fixture(autouse=True)
def _use_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _directory
    _directory = str(tmp_path_factory.mktemp("fst"))


_directory = ""


def test_sorted_by_either_label() -> None:
    one = np.array([1, 0, 0])
    fst = FstColumns(one, one, np.array([1, 2, 3]), np.array([1, 9, 4]), np.zeros(3), np.zeros(2))
    assert fst.sorted("ilabel").ilabel.tolist() == [2, 3, 1]
    assert fst.sorted("olabel").olabel.tolist() == [4, 9, 1]


@pytest.mark.parametrize("cut", [0, 3, 30, 70, -1])
def test_broken(tmp_path: Path, cut: int) -> None:
    zero = np.zeros(2, dtype=np.int64)
    data = fst_bytes(FstColumns(zero, zero, zero, zero, np.zeros(2), np.zeros(1)))
    path = tmp_path / "a.fst"
    path.write_bytes(data[:cut])
    with pytest.raises(LangError, match=r"a\.fst"):
        read_fst(path)


def test_arc_counts_that_do_not_add_up(tmp_path: Path) -> None:
    zero = np.zeros(2, dtype=np.int64)
    data = bytearray(fst_bytes(FstColumns(zero, zero, zero, zero, np.zeros(2), np.zeros(1))))
    at = len(data) - 32 - 8  # the arc count of the only state
    data[at] = 1
    (tmp_path / "a.fst").write_bytes(bytes(data))
    with pytest.raises(LangError, match="add up"):
        read_fst(tmp_path / "a.fst")
