"""CTC and what is added to it: annealed alignments, label smoothing, consistency of two views (CR-CTC).

Shapes: N batch, T frames after subsampling, V vocabulary, S target length. All in float32, natural
logarithms, summed over frames: the trainer divides by the frames of the global batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ctc_loss(log_probs: Tensor, lens: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """CTC loss of every utterance (Graves et al. 2006), blank 0, by torch.

    Args:
        log_probs: ``(N, T, V)`` float32, normalised.
        lens: ``(N,)`` int64, frames of each utterance.
        targets: N token sequences, without blanks.

    Returns:
        ``(N,)`` float32; infinite where an utterance has too few frames for its tokens.
    """
    flat = torch.tensor([token for target in targets for token in target], dtype=torch.int64)
    sizes = torch.tensor([len(target) for target in targets], dtype=torch.int64)
    return F.ctc_loss(
        log_probs.float().transpose(0, 1),  # (T, N, V)
        flat.to(log_probs.device, non_blocking=True),
        lens.to(log_probs.device),
        sizes.to(log_probs.device, non_blocking=True),
        blank=0,
        reduction="none",
    )


def annealed_ctc_loss(
    log_probs: Tensor, lens: Tensor, targets: Sequence[Sequence[int]], power: float
) -> Tensor:
    """CTC loss with the alignment of a flattened model (Ueda and Nakano 1998, deterministic annealing).

    The occupancies of tokens over frames come from the posteriors raised to ``power`` and
    normalised again; the loss is the cross-entropy towards them. 0 is a flat start: every
    alignment counts alike; at 1 the gradient is that of :func:`ctc_loss`.

    Args:
        log_probs: ``(N, T, V)`` float32, normalised.
        lens: ``(N,)`` int64, frames of each utterance.
        targets: N token sequences, without blanks.
        power: 0 to 1.

    Returns:
        ``(N,)`` float32: a bound on no likelihood, so comparable with CTC losses at power 1 alone.
    """
    # detached: the occupancies are targets and must not be trained
    flat = torch.log_softmax(power * log_probs.detach(), dim=-1).requires_grad_()
    # the occupancies come from a gradient, also where the caller has turned gradients off
    with torch.enable_grad():
        losses = ctc_loss(flat, lens, targets)
    (gradient,) = torch.autograd.grad(losses.sum(), flat)
    occupancy = flat.detach().exp() - gradient  # torch's gradient is that of the softmax's input
    past = torch.arange(log_probs.shape[1], device=log_probs.device) >= lens[:, None].to(
        log_probs.device
    )
    cross = -(occupancy * log_probs).sum(dim=-1).masked_fill(past, 0.0).sum(dim=1)  # (N,)
    # an utterance with too few frames stays infinite, as in ctc_loss
    return cross.where(torch.isfinite(losses.detach()), losses.detach())


def uniform_loss(log_probs: Tensor, lens: Tensor) -> Tensor:
    """Label smoothing for CTC: KL(model || uniform) = log V - entropy, summed over frames.

    Kim et al. 2018 (Improved training for online end-to-end speech recognition systems).

    Args:
        log_probs: ``(N, T, V)`` float32, normalised.
        lens: ``(N,)`` frames of each utterance; later frames do not count.

    Returns:
        ``(N,)`` float32.
    """
    V = log_probs.shape[2]
    per_frame = math.log(V) + (log_probs.exp() * log_probs).sum(dim=-1)  # (N, T)
    return per_frame.masked_fill(_past(log_probs, lens), 0.0).sum(dim=1)


def consistency_loss(log_probs: Tensor, other: Tensor, lens: Tensor) -> Tensor:
    """Consistency between the frame posteriors of two views of the same utterances.

    Half the sum of both Kullback-Leibler divergences, each towards the other view with its
    gradient stopped (Yao et al. 2024, CR-CTC: equation 5).

    Args:
        log_probs: ``(N, T, V)`` float32 of the first view.
        other: ``(N, T, V)`` float32 of the second view.
        lens: ``(N,)`` frames of each utterance; later frames do not count.

    Returns:
        ``(N,)`` float32, summed over frames.
    """
    total = _divergence(other, log_probs) + _divergence(log_probs, other)  # (N, T)
    return 0.5 * total.masked_fill(_past(log_probs, lens), 0.0).sum(dim=1)


def _past(log_probs: Tensor, lens: Tensor) -> Tensor:
    """(N, T), true past the end of each utterance."""
    return torch.arange(log_probs.shape[1], device=log_probs.device) >= lens[:, None]


def _divergence(target: Tensor, log_probs: Tensor) -> Tensor:
    """KL(target || model) of every frame ``(N, T)``; no gradient reaches ``target``."""
    return F.kl_div(log_probs, target.detach(), reduction="none", log_target=True).sum(dim=-1)
