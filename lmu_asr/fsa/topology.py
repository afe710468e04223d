"""CTC topologies: which frame-level token sequences stand for which token sequence.

Input labels are token + 1 (the decoder's convention; 0 stays epsilon), output labels are tokens,
with 0, the blank, as epsilon. V tokens with the blank as token 0.
"""

from __future__ import annotations

import numpy as np

from lmu_asr.errors import GraphError
from lmu_asr.fsa.arrays import FstArrays, make_arrays

# 64 million arcs of 16 bytes: 1 GB
DENSE_LIMIT = 8000


def ctc_topology(num_tokens: int, topology: str = "standard") -> FstArrays:
    """Return the CTC topology H over ``num_tokens`` tokens.

    ``standard`` is CTC as Graves et al. (2006) define it: V states, V^2 arcs, a blank is needed
    between equal neighbours. ``modified`` (Laptev et al. 2021, compact CTC) needs no such blank: V states
    and 3V - 2 arcs, epsilons among them.

    Raises:
        GraphError: fewer than two tokens, an unknown topology, or more tokens than V^2 arcs allow.
    """
    if num_tokens < 2:
        raise GraphError(f"a CTC topology needs the blank and a token, got {num_tokens} tokens")
    if topology == "modified":
        return _modified(num_tokens)
    if topology != "standard":
        raise GraphError(f"topology '{topology}': want standard or modified")
    if num_tokens > DENSE_LIMIT:
        raise GraphError(
            f"the standard topology over {num_tokens} tokens has {num_tokens**2} arcs;"
            " set graph.topology=modified"
        )
    return _standard(num_tokens)


def _standard(num_tokens: int) -> FstArrays:
    """State i means that frame t said i: staying in i is a repeat, entering j emits j."""
    src, dst = (grid.ravel() for grid in np.mgrid[0:num_tokens, 0:num_tokens])
    emitted = np.where(src == dst, 0, dst)
    return make_arrays(src, dst + 1, emitted, 0.0, dst, np.zeros(num_tokens))


def _modified(num_tokens: int) -> FstArrays:
    """State 0 takes blanks and starts tokens; state i repeats i and falls back by epsilon."""
    tokens = np.arange(1, num_tokens)
    zeros = np.zeros_like(tokens)
    src = np.concatenate([[0], zeros, tokens, tokens])
    dst = np.concatenate([[0], tokens, tokens, zeros])
    ilabel = np.concatenate([[1], tokens + 1, tokens + 1, zeros])
    olabel = np.concatenate([[0], tokens, zeros, zeros])
    return make_arrays(src, ilabel, olabel, 0.0, dst, np.zeros(num_tokens))
