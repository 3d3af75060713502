"""Low-rank maps M = I + U Vᵀ of text states."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LowRankMap(NamedTuple):
    """A map M with M − I = U Vᵀ."""

    u: Tensor
    """U (width rank)."""
    v: Tensor
    """V (width rank)."""

    @classmethod
    def identity(cls, width: int) -> LowRankMap:
        """The identity map, of rank 0."""
        return cls(torch.zeros(width, 0, dtype=torch.float64), torch.zeros(width, 0, dtype=torch.float64))

    def apply(self, columns: Tensor) -> Tensor:
        """M X for X (width n)."""
        return columns + self.u @ (self.v.T @ columns)

    def apply_transposed(self, columns: Tensor) -> Tensor:
        """Mᵀ X for X (width n)."""
        return columns + self.v @ (self.u.T @ columns)

    def congruent(self, s: Tensor) -> Tensor:
        """MᵀSM of a symmetric S (width width), as S + P + Pᵀ with P = V (SU + ½ V UᵀSU)ᵀ: half the products."""
        su = s @ self.u
        p = self.v @ (su + self.v @ (self.u.T @ su) / 2).T
        return s + p + p.T

    def then(self, later: LowRankMap) -> LowRankMap:
        """M_self M_later, the map after folding `self` first and `later` second; at most `width` columns."""
        u = torch.cat([self.u, self.apply(later.u)], dim=1)
        v = torch.cat([self.v, later.v], dim=1)
        width, rank = u.shape
        return LowRankMap(u @ v.T, torch.eye(width, dtype=u.dtype)) if rank > width else LowRankMap(u, v)
