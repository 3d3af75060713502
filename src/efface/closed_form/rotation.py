"""OCE's rotation of one matrix's outputs (arXiv 2605.28902)."""

from __future__ import annotations

import torch
from torch import Tensor

KEPT = 1e-6
"""Singular values of Q − I below this share of the largest are left out of its factors."""


def preserved_energy(w: Tensor, *, general: Tensor, retained: Tensor, p_g: float, p_n: float, ridge: float) -> Tensor:
    """H = p_n Σ (W r)(W r)ᵀ + p_g W C_g Wᵀ + λ W Wᵀ (out out).

    Args:
        w: W (out width).
        general: C_g (width width).
        retained: RᵀR (width width).
        p_g: weight of the general moment.
        p_n: weight of the retained rows.
        ridge: λ.
    """
    inner = p_n * retained + p_g * general
    inner.diagonal().add_(ridge)
    return w @ inner @ w.T


def rotation(w: Tensor, c: Tensor, t: Tensor, energy: Tensor, erase: float) -> Tensor:
    """Q (out out), the orthogonal polar factor of H − e Π (I − Π*), with Π and Π* onto the values of C and of T.

    Its determinant is 1: where it were not, the direction of the smallest singular value is turned (the public code turns the
    last column of Q, one value channel that has nothing to do with the concept).

    Args:
        w: W (out width).
        c: C (rows width).
        t: T (rows width).
        energy: H (out out).
        erase: e.
    """
    own, anchor = _span(w @ c.T), _span(w @ t.T)
    erased = own @ own.T
    total = energy - erase * (erased - erased @ anchor @ anchor.T)
    u, _, v = torch.linalg.svd(total)
    if torch.linalg.det(u) * torch.linalg.det(v) < 0:
        u[:, -1] = -u[:, -1]
    return u @ v


def factors(q: Tensor, w: Tensor) -> tuple[Tensor, Tensor] | None:
    """Thin (out rank) and (rank width) whose product is (Q − I) W; None where they would be no smaller than the whole."""
    u, values, v = torch.linalg.svd(q - torch.eye(len(q), dtype=q.dtype))
    rank = int((values > KEPT * values[0]).sum()) if values[0] > 0 else 0
    out, width = w.shape
    if rank * (out + width) >= out * width:
        return None
    return u[:, :rank] * values[:rank], v[:rank] @ w


def _span(columns: Tensor) -> Tensor:
    """Orthonormal basis (out rank) of columns (out n); repeated ones count once."""
    unit = columns / columns.norm(dim=0).clamp(min=torch.finfo(columns.dtype).tiny)
    u, values, _ = torch.linalg.svd(unit, full_matrices=False)
    return u[:, values > 1e-6 * values.max()] if values.numel() and values.max() > 0 else u[:, :0]
