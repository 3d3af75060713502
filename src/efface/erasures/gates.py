"""Gates: when a prompt names a concept, by the direction of its text states."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gates(NamedTuple):
    """When a prompt names a concept: some position x of it has wᵀ(x − μ) / |x − μ| above a threshold."""

    centre: Tensor
    """μ (width,)."""
    weights: Tensor
    """w of each gate, of length 1 (gates width)."""
    thresholds: Tensor
    """(gates,)"""
    concept: Tensor
    """Index of the concept that each gate is of (gates,)."""

    def scores(self, states: Tensor) -> Tensor:
        """wᵀ(x − μ) / |x − μ| (… gates) of text states (… width)."""
        centred = states - self.centre
        length = centred.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(centred.dtype).tiny)
        return centred @ self.weights.T / length

    def open(self, states: Tensor) -> Tensor:
        """Which concepts each prompt names (batch concepts), of text states (batch tokens width)."""
        opened = (self.scores(states) > self.thresholds).any(dim=1)
        concepts = torch.zeros(len(states), int(self.concept.max()) + 1, dtype=torch.int32, device=states.device)
        index = self.concept.expand(len(states), -1)
        return concepts.scatter_add_(1, index, opened.int()) > 0

    def to(self, like: Tensor) -> Gates:
        """The same on the device of a tensor."""
        return Gates(**{name: part.to(like.device) for name, part in self._asdict().items()})
