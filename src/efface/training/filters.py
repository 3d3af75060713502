"""What happens to gradients and values between the loss and the next step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def without_conflict(gradient: Tensor, kept: Tensor, strength: float = 1.0) -> Tensor:
    """A gradient less its part along −`kept`: g − λ⟨g, k⟩/‖k‖² k where ⟨g, k⟩ < 0, and g itself elsewhere."""
    inner = (gradient * kept).sum()
    if inner >= 0:
        return gradient
    return gradient - strength * inner / kept.square().sum() * kept


def without_direction(gradient: Tensor, kept: Tensor, strength: float = 1.0) -> Tensor:
    """What DoCo's public code makes of a conflict: g − λ cos(g, k) k/‖k‖, right only for a gradient of length 1."""
    cosine = (gradient * kept).sum() / (gradient.norm() * kept.norm()).clamp(min=torch.finfo(gradient.dtype).tiny)
    if cosine >= 0:
        return gradient
    return gradient - strength * cosine * kept / kept.norm()


def clipped(gradients: Sequence[Tensor], most: float) -> list[Tensor]:
    """Gradients whose norm, of all of them together, is at most `most`."""
    norm = torch.nn.utils.get_total_norm(gradients)
    factor = (most / (norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ has it
    return [gradient * factor for gradient in gradients]


class Average:
    """Exponential moving average of trained values: m ← d m + (1 − d) θ."""

    def __init__(self, parameters: Sequence[Tensor], decay: float):
        self.values = [p.detach().clone() for p in parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, parameters: Sequence[Tensor]) -> None:
        """Take the values of one more step in."""
        for value, p in zip(self.values, parameters, strict=True):
            value.lerp_(p.detach(), 1 - self.decay)
