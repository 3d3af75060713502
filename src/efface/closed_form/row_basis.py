"""The directions of text states that key and value matrices read at all: in a basis of them S = Σ WᵀW has an inverse.

Models that mix text and picture read states of 4096 numbers through one matrix of 3072 rows or fewer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efface.closed_form.maps import LowRankMap
from efface.closed_form.nullspace import rounding
from efface.closed_form.ridge import RowPairs, cholesky, warn_of_condition


def row_basis(s: Tensor) -> Tensor:
    """Orthonormal basis Z (width rank) of the range of S (width width), which is that of the matrices' rows."""
    values, vectors = torch.linalg.eigh(s)
    return vectors[:, values > rounding(values)]


def derive_in_basis(pairs: RowPairs, map_: LowRankMap, s: Tensor, basis: Tensor, lambda_r: float) -> RowPairs:
    """RECE's surrogate `1st` where S = Z S_r Zᵀ: of all c' that minimise Σ |W M c' − W c|² + λ_r |W M c' − W M c|² the shortest,

        c' = B⁺ (Zᵀ c + λ_r B c) / (1 + λ_r),        B = Zᵀ M.

    Args:
        pairs: concept rows and targets.
        map_: M.
        s: S (width width).
        basis: Z (width rank).
        lambda_r: λ_r.

    Raises:
        EffaceError: M takes a direction away that the matrices read, so that B⁺ does not exist.
    """
    b = map_.apply_transposed(basis).T  # Zᵀ M
    inner = b @ b.T
    factor = cholesky(inner, "ZᵀM MᵀZ, which the surrogate '1st' inverts: use 'regzero' on this model")
    root = torch.linalg.cholesky(basis.T @ s @ basis)
    warn_of_condition(
        root.T @ inner @ root, "MᵀSM in the basis of rows, which the surrogate '1st' inverts: use 'regzero'"
    )

    def derived(c: Tensor, t: Tensor) -> Tensor:
        values = basis.T @ c + lambda_r * b @ c
        return b.T @ torch.cholesky_solve(values, factor) / (1 + lambda_r)

    return pairs.derive(derived)
