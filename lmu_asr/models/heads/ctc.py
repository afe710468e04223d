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
        "ctc: by the library of graph.fsa; k2_ctc: by k2; graph_ctc: over all pronunciations, by k2; lf_mmi: against all "
        "other token sequences, weighted by an n-gram model of tokens",
        choices=("ctc", "k2_ctc", "graph_ctc", "lf_mmi"),
    )
    mmi_order: int = opt(
        3,
        "with model.ctc.loss=lf_mmi: order of the n-gram model of tokens; 3 needs few tokens, such as phones",
        min=2,
        max=3,
    )
    mmi_ctc: float = opt(
        0.1, "with model.ctc.loss=lf_mmi: weight of an added CTC loss", min=0.0, max=10
    )
    cr_ctc: float = opt(
        0.0,
        "weight of the consistency loss between two augmented views (0.2 in its paper); 0: none. It doubles the work of a "
        "step",
        min=0.0,
        max=10,
    )
    inter_ctc: float = opt(
        0.0,
        "share of the loss for CTC on inner layers (0.3 in its paper); 0: none",
        min=0,
        max=0.9,
    )
    inter_ctc_layers: list[int] = opt(
        [], "layers, from 1, for the inner CTC loss; empty: the middle one", min=1
    )
    label_smoothing: float = opt(
        0.0, "share of the loss that draws the outputs of every frame to uniform", min=0.0, max=0.9
    )
    anneal_steps: int = opt(
        0,
        "number of first steps in which alignments anneal from uniform to the model's (torch's CTC): a flat start",
        min=0,
    )


def build(config: ModelConfig, options: Options, vocab_size: int) -> CtcHead:
    """Return the head for ``vocab_size`` tokens, blank among them."""
    from lmu_asr.models.ctc import CtcHead

    return CtcHead(config.dim, vocab_size)
