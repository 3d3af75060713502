"""Points of the probability simplex, and words drawn from them with gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def onto_simplex(points: Tensor) -> Tensor:
    """The nearest point of the probability simplex to each row (… width), by sorting (Duchi et al., ICML 2008)."""
    ordered = points.sort(dim=-1, descending=True).values
    ranks = torch.arange(1, points.shape[-1] + 1, device=points.device, dtype=points.dtype)
    surplus = (ordered.cumsum(-1) - 1) / ranks
    last = (ordered > surplus).sum(-1, keepdim=True) - 1  # how many stay above zero, less one
    return (points - surplus.gather(-1, last)).clamp(min=0)


def sampled(weights: Tensor, generators: list[torch.Generator], clip: float | None = None) -> Tensor:
    """One-hot words drawn from simplex points (samples tokens words), with the gradient of the points themselves.

    Args:
        weights: the points.
        generators: one a sample.
        clip: largest entry of the gradient that reaches the points; None leaves it as it is.
    """
    drawn = torch.stack(
        [w.detach().cpu().multinomial(1, generator=g) for w, g in zip(weights, generators, strict=True)]
    )
    hot = F.one_hot(drawn.squeeze(-1), weights.shape[-1]).to(weights)
    through = hot - weights.detach() + weights
    if clip is not None and through.requires_grad:
        through.register_hook(lambda gradient: gradient.clamp(-clip, clip))
    return through
