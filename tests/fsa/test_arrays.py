"""OpenFst binaries written and read without OpenFst, and checked with it."""

from pathlib import Path

import kaldifst
import numpy as np
import pytest

from lmu_asr.errors import GraphError
from lmu_asr.fsa.arrays import (
    FstArrays,
    from_const_bytes,
    from_fst,
    from_lattice,
    make_arrays,
    to_const_bytes,
)

INF = float("inf")
TEXT = "0 1 3 7 0.5\n0 0 1 0 0.25\n1 0.75\n"


def example() -> FstArrays:
    return make_arrays([0, 0], [3, 1], [7, 0], [0.5, 0.25], [1, 0], [INF, 0.75])


def test_bytes_equal_those_of_openfst(tmp_path: Path) -> None:
    fst = kaldifst.StdConstFst(example().to_vector())
    fst.write(str(tmp_path / "theirs.fst"))
    theirs = (tmp_path / "theirs.fst").read_bytes()
    ours = to_const_bytes(example())
    properties = slice(34, 42)  # what OpenFst found out about the arcs may be left unsaid
    assert ours[: properties.start] == theirs[: properties.start]
    assert ours[properties.stop :] == theirs[properties.stop :]


def test_round_trip_through_kaldifst_keeps_every_arc() -> None:
    back = from_fst(example().to_vector())
    assert back.src.tolist() == [0, 0]
    assert back.arcs.tolist() == example().arcs.tolist() == [(3, 7, 0.5, 1), (1, 0, 0.25, 0)]
    assert back.final.tolist() == [INF, 0.75]
    assert from_fst(kaldifst.compile(TEXT)).arcs.tolist() == [(3, 7, 0.5, 1), (1, 0, 0.25, 0)]


def test_arcs_are_grouped_by_source_in_given_order() -> None:
    fst = make_arrays([1, 0, 1], [5, 6, 4], 0, 0.0, 0, [0.0, INF])
    assert fst.src.tolist() == [0, 1, 1]
    assert fst.arcs["ilabel"].tolist() == [6, 5, 4]


def test_scaling_multiplies_arcs_and_final_costs_and_keeps_infinity() -> None:
    scaled = example().scaled(2.0)
    assert scaled.arcs["weight"].tolist() == [1.0, 0.5]
    assert scaled.final.tolist() == [INF, 1.5]
    assert example().scaled(0.0).final.tolist() == [INF, 0.0]
    assert example().arcs["weight"].tolist() == [0.5, 0.25]


def test_disambiguation_symbols_become_epsilon() -> None:
    plain = example().without_disambiguation(num_tokens=3, num_words=7)
    assert plain.arcs["ilabel"].tolist() == [0, 1]
    assert plain.arcs["olabel"].tolist() == [0, 0]


@pytest.mark.parametrize("cut", [0, 3, 11, 30, -1])
def test_cut_file_is_refused_by_name(cut: int) -> None:
    data = to_const_bytes(example())
    with pytest.raises(GraphError, match=r"HLG\.fst"):
        from_const_bytes(data[:cut], "HLG.fst")


def test_vector_file_is_refused(tmp_path: Path) -> None:
    kaldifst.compile(TEXT).write(str(tmp_path / "v.fst"))
    with pytest.raises(GraphError, match="want a const FST"):
        from_const_bytes((tmp_path / "v.fst").read_bytes(), "v.fst")


def test_lattice_is_renumbered_to_start_at_state_zero() -> None:
    lattice = kaldifst.Lattice()
    for _ in range(2):
        lattice.add_state()
    lattice.start = 1
    arc = kaldifst.LatticeArc(2, 9, kaldifst.LatticeWeight(0.5, 4.0), 0)
    lattice.add_arc(1, arc)
    lattice.set_final(0, kaldifst.LatticeWeight(0.25, 0.0))
    arrays = from_lattice(lattice)
    assert arrays.src.tolist() == [0]
    assert arrays.arcs.tolist() == [(2, 9, 0.5, 4.0, 1)]
    assert np.isinf(arrays.final[0]).all()
    assert arrays.final[1].tolist() == [0.25, 0.0]
