"""SLD, safe latent diffusion: guidance away from a text where the picture goes there (Schramowski et al., CVPR 2023,
arXiv 2211.05105)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.erasures.guards.call import CLOSE, momentum_unit
from efface.erasures.guards.output import OutputRule, Outputs


@dataclass(frozen=True)
class SLD(OutputRule):
    """γ = μ ⊙ (ε_S − ε_u) + s_m ν with μ = min(s_S |D|, 1) where D = ε_p − ε_S < λ, else 0 (equations 5 to 8)."""

    phrases: tuple[str, ...]
    """Texts of what is to be left, read as one."""
    warmup: float
    """δ, share of the schedule before which the picture stays as it is."""
    strength: float
    """s_S."""
    threshold: float
    """λ in units of ε."""
    momentum_scale: float
    """s_m."""
    momentum: float
    """β_m."""
    quantile: bool = False
    """Whether λ is a quantile of |D| over a picture's latents, and not in units of ε."""

    @property
    def begins(self) -> float:
        """The warm-up."""
        return self.warmup

    def change(self, outputs: Outputs, memory: dict[str, Any]) -> Tensor | None:
        """γ (batch …), after the warm-up."""
        c = outputs.unit
        away = outputs.concept - outputs.unconditional
        difference = (outputs.conditional - outputs.concept) * c
        threshold: Any = self.threshold
        if self.quantile:
            flat = difference.abs().flatten(1).float()
            threshold = torch.quantile(flat, self.threshold, dim=1).view(-1, *[1] * (away.ndim - 1))
        share = (self.strength * difference.abs()).clamp(max=1.0)
        share = torch.where(difference < threshold, share, 0.0)
        v = memory.get("momentum", torch.zeros_like(away))
        gamma = share * away + self.momentum_scale * v / momentum_unit(c)
        if self.momentum_scale:
            memory["momentum"] = (self.momentum * v + (1 - self.momentum) * gamma * c).detach()
        return gamma if outputs.share + CLOSE >= self.warmup else None
