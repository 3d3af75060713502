"""How near a state can come to a concept's keys and values without opening the concept's gate.

The gate is shut where wᵀy ≤ b |y| for y = x − μ. For b ≥ 0 the nearest such state to z = c − μ in |S^½ ·| lies on one quadratic
constraint, yᵀ(w wᵀ − b² I) y ≤ 0, whose dual is tight:

    dist² = max over ν ≥ 0 with S + ν Q ≻ 0 of zᵀSz − zᵀS (S + ν Q)⁻¹ S z,      Q = w wᵀ − b² I

(the half space wᵀy < 0 is no nearer: the way there crosses the constraint). Every ν gives a bound, whether it is the best or not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 100
"""Of each search over ν."""
GOLDEN = (5**0.5 - 1) / 2


class Spectrum(NamedTuple):
    """S in its eigenvectors."""

    values: Tensor
    """(width,), the smallest first."""
    vectors: Tensor
    """(width width)"""

    @classmethod
    def of(cls, s: Tensor) -> Spectrum:
        """Of S (width width); rounding below zero is cut off."""
        values, vectors = torch.linalg.eigh(s)
        return cls(values.clamp(min=0), vectors)


def closed_distance(s: Spectrum, z: Tensor, w: Tensor, b: float) -> float:
    """A bound from below on |S^½(x − c)| over all states x that leave the gate shut; 0 where the concept's own state does.

    Args:
        s: the keys' and values' Gram matrix.
        z: c − μ (width,).
        w: the gate's direction, of length 1 (width,).
        b: its threshold.
    """
    if b < 0 or float(w @ z) <= b * float(z.norm()):
        return 0.0
    side = s.vectors.T @ w
    pull = s.values * (s.vectors.T @ z)
    whole = float(((s.vectors.T @ z).square() * s.values).sum())

    def value(nu: float) -> float:
        """The dual's value; −∞ where S + ν Q is not positive definite."""
        beta = s.values - nu * b * b
        if (beta == 0).any() or int((beta < 0).sum()) > 1:
            return float("-inf")
        bottom = 1 + nu * float((side.square() / beta).sum())
        if (beta[0] < 0) == (bottom > 0):  # one negative direction must be lifted by w wᵀ, and by it alone
            return float("-inf")
        cross = float((side * pull / beta).sum())
        return whole - float((pull.square() / beta).sum()) + nu * cross**2 / bottom

    low = 0.0
    high = float(s.values[1]) / (b * b) if b else 1e12 * float(s.values[-1])
    best = 0.0
    # Concave where it is finite, and −∞ only to the right of that.
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(STEPS):
        best = max(best, at_left, at_right)
        if at_left >= at_right:
            high = right
            right, at_right = left, at_left
            left = high - GOLDEN * (high - low)
            at_left = value(left)
        else:
            low = left
            left, at_left = right, at_right
            right = low + GOLDEN * (high - low)
            at_right = value(right)
    return max(0.0, best) ** 0.5
