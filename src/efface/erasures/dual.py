"""The small system in which concepts of one map meet: M = I + e (T − C)ᵀ (I + e C V)⁻¹ Vᵀ."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.errors import EffaceError


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
