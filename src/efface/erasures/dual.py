"""The small system in which concepts of one map meet: M = I + e (T − C)ᵀ (I + e C V)⁻¹ Vᵀ."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.models.precision import finite_float32


def solve_active(c: Tensor, difference: Tensor, v: Tensor, erase: float) -> tuple[Tensor, Tensor]:
    """Factors U = e (T − C)ᵀ (I + e C V)⁻¹ and V (each width rows) of the map of some concepts; of more rows than the width,
    M − I itself and the identity.

    Args:
        c: their rows C (rows width).
        difference: (T − C)ᵀ (width rows).
        v: V = P Cᵀ (width rows) with one symmetric P for all concepts, so that C V is symmetric.
        erase: e.

    Raises:
        EffaceError: the values are not finite.
    """
    rows, width = c.shape
    if rows > width:  # (I + e C V)⁻¹ Vᵀ = Vᵀ − e C (I + e V C)⁻¹ V Vᵀ, a system of the width
        eye = torch.eye(width, dtype=c.dtype)
        solved = torch.linalg.solve(eye + erase * v @ c, v @ v.T)
        return erase * difference @ (v.T - erase * c @ solved), eye
    inner = erase * c @ v
    inner = (inner + inner.T) / 2
    inner.diagonal().add_(1.0)
    if not torch.isfinite(inner).all():
        raise EffaceError("the rows of the concepts are not finite: nothing was erased; check the model's weights.")
    # I + e C P Cᵀ is positive definite wherever P is positive semidefinite.
    factor = torch.linalg.cholesky(inner)
    return erase * torch.cholesky_solve(difference.T, factor).T, v


class MapRows(NamedTuple):
    """What the maps of some of the concepts are solved from: M = I + e (T − C)ᵀ (I + e C V)⁻¹ Vᵀ over their rows."""

    c: Tensor
    """C (rows width)."""
    difference: Tensor
    """(T − C)ᵀ (width rows)."""
    v: Tensor
    """V (width rows)."""
    owner: Tensor
    """Index of the concept that each row belongs to (rows,)."""

    def single(self) -> MapRows:
        """The same in float32; raises EffaceError where values are not finite."""
        return MapRows(
            c=finite_float32(self.c),
            difference=finite_float32(self.difference),
            v=finite_float32(self.v),
            owner=self.owner,
        )

    def solved(self, active: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """U and V (each width rows) of the map of some concepts, in float32; e is one over their number."""
        mine = torch.isin(self.owner, torch.tensor(active, dtype=self.owner.dtype))
        c, v, difference = self.c[mine].double(), self.v[:, mine].double(), self.difference[:, mine].double()
        u, v = solve_active(c, difference, v, 1 / len(active))
        return finite_float32(u), finite_float32(v)

    def of_concept(self, number: int) -> MapRows:
        """The same rows, all of one concept."""
        return self._replace(owner=torch.full_like(self.owner, number))

    def and_more(self, other: MapRows) -> MapRows:
        """These rows and others."""
        return MapRows(
            c=torch.cat([self.c.double(), other.c]),
            difference=torch.cat([self.difference.double(), other.difference], dim=1),
            v=torch.cat([self.v.double(), other.v], dim=1),
            owner=torch.cat([self.owner, other.owner]),
        )


Factors = dict[tuple[int, ...], tuple[Tensor, Tensor]]
"""Active concepts -> factors of their map, of those that were met."""
