"""Every search by name, one row each: its graph, its scales, what it finds, and the function.

A head names the rows that serve it (``methods`` of :class:`lmu_asr.models.head.Head`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lmu_asr.decoding.searches.over_graphs import (
    Inputs,
    greedy,
    least_error,
    one_best,
    prefix_beam,
    rescored_lattice,
    rescored_list,
)
from lmu_asr.errors import ConfigError
from lmu_asr.fsa.hypothesis import Hypothesis

SCALES = ("acoustic_scale", "lm_scale", "blank_penalty")


@dataclass(frozen=True)
class Method:
    """One search.

    Attributes:
        search: finds a hypothesis for each utterance of a batch.
        scales: the scales that can change its best path; a sweep on dev tries no others.
        graph: kind of the graph that it searches; empty: none.
        finds_tokens: it finds tokens, which are no words where the unit is phones.
        keeps: ``list`` or ``lattice`` of what it rescores or chooses from; empty: one path.
        rescores: it needs the graph's n-gram model and a larger one.
    """

    search: Callable[[Inputs], list[Hypothesis]]
    scales: tuple[str, ...] = SCALES
    graph: str = ""
    finds_tokens: bool = False
    keeps: str = ""
    rescores: bool = False


METHODS = {
    # in greedy and H no other score competes, so an acoustic scale changes no order of paths
    "greedy": Method(greedy, ("blank_penalty",), finds_tokens=True),
    "prefix_beam": Method(prefix_beam, ("lm_scale", "blank_penalty"), finds_tokens=True),
    "H": Method(one_best, ("blank_penalty",), "H", finds_tokens=True),
    "HL": Method(one_best, ("acoustic_scale", "blank_penalty"), "HL"),
    "HLG": Method(one_best, graph="HLG"),
    "nbest": Method(least_error, graph="HLG", keeps="list"),
    "nbest_rescore": Method(rescored_list, graph="HLG", keeps="list", rescores=True),
    "lattice_rescore": Method(rescored_lattice, graph="HLG", keeps="lattice", rescores=True),
}


def find_method(name: str) -> Method:
    """Return the row of a search.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in METHODS:
        raise ConfigError(f"search '{name}': want one of {', '.join(METHODS)}")
    return METHODS[name]
