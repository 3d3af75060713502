"""CRG: guidance away from a concept in proportion to the evidence for it, and none without (arXiv 2606.29801, ICML 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.erasures.guards.output import OutputRule, Outputs


@dataclass(frozen=True)
class CRG(OutputRule):
    """Where CP = K/2 · br + ∫ K/2 · br du > τ, o_p loses λ₀ (CP − τ) / (K |ε_S − ε_u|²) · (o_S − o_u); else it stays bit for bit.

    br = |ε_p − ε_u|² − |ε_p − ε_S|², u the share of the schedule. Squares are means over a picture's latents, so that τ does not
    depend on its size. u is the empty prompt, so that a caller's negative prompt neither opens the gate nor closes it.
    """

    phrases: tuple[str, ...]
    """Texts of the concept, read as one."""
    precision: float
    """K."""
    strength: float
    """λ₀."""
    threshold: float
    """τ, found beside the empty prompt."""
    beside_empty = True

    def change(self, outputs: Outputs, memory: dict[str, Any]) -> Tensor | None:
        away = outputs.concept - outputs.unconditional
        size = _square(away * outputs.unit)
        evidence = _square((outputs.conditional - outputs.unconditional) * outputs.unit)
        evidence = self.precision / 2 * (evidence - _square((outputs.conditional - outputs.concept) * outputs.unit))
        past = memory.get("past", torch.zeros_like(evidence))
        if "evidence" in memory:
            past = past + memory["evidence"] * (outputs.share - memory["share"])
        found = evidence + past
        memory |= {"past": past.detach(), "evidence": evidence.detach(), "share": outputs.share}
        memory["most"] = torch.maximum(memory.get("most", found.detach()), found.detach())
        fires = found > self.threshold
        if not fires.any():
            return None
        factor = torch.where(
            fires, self.strength * (found - self.threshold) / (self.precision * size).clamp(min=1e-12), 0.0
        )
        return factor.view(-1, *[1] * (away.ndim - 1)) * away


def _square(difference: Tensor) -> Tensor:
    """Mean square of every row (batch,)."""
    return difference.float().square().flatten(1).mean(1)
