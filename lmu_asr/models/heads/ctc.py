"""The CTC head (Graves et al. 2006), its losses and what they add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmu_asr.options import opt

if TYPE_CHECKING:
    from lmu_asr.config import ModelConfig
    from lmu_asr.models.ctc import CtcHead


@dataclass(frozen=True)
class Options:
    """The section ``model.ctc``."""

    loss: str = opt(
        "ctc",
        "ctc: by the engine of graph.fsa; k2_ctc; graph_ctc: over all pronunciations, by k2; lf_mmi: "
        "against every token sequence, weighted by an n-gram model of tokens",
        choices=("ctc", "k2_ctc", "graph_ctc", "lf_mmi"),
    )
    mmi_order: int = opt(3, "order of the n-gram model of model.ctc.loss=lf_mmi", min=2, max=3)
    mmi_ctc: float = opt(0.1, "CTC added to model.ctc.loss=lf_mmi, times this", min=0.0, max=10)
    cr_ctc: float = opt(
        0.0, "weight of the consistency loss between two augmented views", min=0.0, max=10
    )
    inter_ctc: float = opt(
        0.0,
        "share of the loss that CTC of inner layers has (0.3 in its paper); 0: none",
        min=0,
        max=0.9,
    )
    inter_ctc_layers: list[int] = opt(
        [], "blocks, from 1, after which inner CTC reads; empty: the middle one", min=1
    )
    label_smoothing: float = opt(
        0.0, "share of the loss that pulls the outputs of every frame to uniform", min=0.0, max=0.9
    )
    anneal_steps: int = opt(
        0,
        "first steps whose alignments (torch's CTC) anneal from uniform to the model's own: a flat "
        "start",
        min=0,
    )


def build(config: ModelConfig, options: Options, vocab_size: int) -> CtcHead:
    """Return the head for ``vocab_size`` tokens, blank among them."""
    from lmu_asr.models.ctc import CtcHead

    return CtcHead(config.dim, vocab_size)
