"""What every engine checks and prepares before loss or search.

Shapes: N batch, T frames, V vocabulary. Scores are log probabilities, base e.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmu_asr.errors import DataError, GraphError
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import ctc_min_frames


def feasible(lens: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Return (N,) bool: whether CTC has a path, frames >= tokens + adjacent repeats."""
    needed = [ctc_min_frames(target) for target in targets]
    return lens.cpu() >= torch.tensor(needed, dtype=torch.int64)


def check_vocabulary(log_probs: Tensor, graph: Graph) -> None:
    """Raise GraphError where the posteriors have another number of tokens than the graph's Lang."""
    wanted = graph.lang.vocab_size
    if log_probs.shape[2] != wanted:
        raise GraphError(
            f"posteriors over {log_probs.shape[2]} tokens, graph {graph.kind} over {wanted}:"
            " model and graph come from different lang directories"
        )


def search_inputs(
    log_probs: Tensor, lens: Tensor, options: SearchOptions, ids: Sequence[str] | None
) -> list[np.ndarray]:
    """Return the scaled scores of each utterance, (T, V) float32, checked.

    Raises:
        DataError: NaN or +infinity, naming the utterance and its first bad frame.
    """
    values = log_probs.detach().to("cpu", torch.float32)
    out = []
    for index, length in enumerate(lens.tolist()):
        # on the CPU this is the model's own memory, and the scaling below is in place
        scores = values[index, :length].numpy().copy()
        # minus infinity is a probability of 0 and no fault
        bad = np.flatnonzero((np.isnan(scores) | (scores == np.inf)).any(axis=1))
        if len(bad):
            name = ids[index] if ids is not None else f"number {index} of the batch"
            raise DataError(
                f"utterance {name}: {len(bad)} of {length} frames of posteriors hold NaN or"
                f" infinity, the first is {bad[0]}; check the model and its checkpoint"
            )
        scores[:, 0] -= options.blank_penalty
        scores *= options.acoustic_scale
        out.append(scores)
    return out
