"""CTC topologies accept exactly the frame sequences that CTC's definition gives."""

import itertools

import pytest

from lmu_asr.errors import GraphError
from lmu_asr.fsa.arrays import FstArrays
from lmu_asr.fsa.topology import ctc_topology
from tests.fsa.small import collapse_reference


def outputs(fst: FstArrays, path: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every output for a frame sequence, one for each way through the graph."""
    reached: list[tuple[int, tuple[int, ...]]] = [(fst.start, ())]
    for token in path:
        reached = closure(fst, reached)
        reached = [
            (int(arc["dst"]), (*out, int(arc["olabel"])) if arc["olabel"] else out)
            for state, out in reached
            for arc in fst.arcs[fst.src == state]
            if arc["ilabel"] == token + 1
        ]
    return sorted(out for _, out in reached)


def closure(fst: FstArrays, reached: list[tuple[int, tuple[int, ...]]]) -> list:
    return reached + [
        (int(arc["dst"]), out)
        for state, out in reached
        for arc in fst.arcs[(fst.src == state)]
        if arc["ilabel"] == 0
    ]


def test_standard_topology_collapses_every_sequence_in_one_way() -> None:
    fst = ctc_topology(3)
    for path in itertools.product(range(3), repeat=4):
        assert outputs(fst, path) == [collapse_reference(path)]


def test_modified_topology_also_reads_repeats_as_two_tokens() -> None:
    fst = ctc_topology(3, "modified")
    assert outputs(fst, (1, 1)) == [(1,), (1, 1)]
    assert outputs(fst, (1, 0, 1)) == [(1, 1)]
    assert outputs(fst, (1, 2, 0)) == [(1, 2)]


@pytest.mark.parametrize("tokens", [2, 5, 40])
def test_sizes(tokens: int) -> None:
    assert ctc_topology(tokens).num_arcs == tokens**2
    assert ctc_topology(tokens, "modified").num_arcs == 3 * tokens - 2


def test_refusals() -> None:
    with pytest.raises(GraphError, match="1 tokens"):
        ctc_topology(1)
    with pytest.raises(GraphError, match="standard or modified"):
        ctc_topology(5, "compact")
    with pytest.raises(GraphError, match=r"graph\.topology=modified"):
        ctc_topology(10**5)
