"""The closed forms as the papers' codes spell them: matrix by matrix, row by row, explicit inverses; float64."""

from __future__ import annotations

import torch
from torch import Tensor


def uce(
    w: Tensor, c: Tensor, t: Tensor, r: Tensor, e: float, p: float, lam: float, current: Tensor | None = None
) -> Tensor:
    """W_new = [e Σ (W t) cᵀ + p Σ (W r) rᵀ + λ W] [e Σ c cᵀ + p Σ r rᵀ + λ I]⁻¹."""
    w = w if current is None else current
    left, right = lam * w, lam * torch.eye(w.shape[1], dtype=w.dtype)
    for row, target in zip(c, t, strict=True):
        left = left + e * torch.outer(w @ target, row)
        right = right + e * torch.outer(row, row)
    for row in r:
        left = left + p * torch.outer(w @ row, row)
        right = right + p * torch.outer(row, row)
    return left @ torch.linalg.inv(right)


def tensor_uce(w: Tensor, pairs: list[tuple[Tensor, Tensor]], r: Tensor, e: float, p: float, lam: float) -> Tensor:
    """The older target: the anchor's values without their component along the concept's old values."""
    left, right = lam * w, lam * torch.eye(w.shape[1], dtype=w.dtype)
    for c, t in pairs:
        old, new = (w @ c.T).T, (w @ t.T).T
        unit = old / old.norm()
        target = new - (unit * new).sum() * unit
        for row, value in zip(c, target, strict=True):
            left = left + e * torch.outer(value, row)
            right = right + e * torch.outer(row, row)
    for row in r:
        left = left + p * torch.outer(w @ row, row)
        right = right + p * torch.outer(row, row)
    return left @ torch.linalg.inv(right)


def derived(old: list[Tensor], new: list[Tensor], c: Tensor, t: Tensor, lam: float, form: str) -> Tensor:
    """The embeddings c' of RECE, from sums over all matrices."""
    d = c.shape[1]
    eye = torch.eye(d, dtype=c.dtype)
    nn = torch.stack([w.T @ w for w in new]).sum(0)
    no = torch.stack([n.T @ o for n, o in zip(new, old, strict=True)]).sum(0)
    rows = []
    for row, target in zip(c, t, strict=True):
        system, side = {
            "regzero": (lam * eye + nn, no @ row),
            "standard": (lam * eye + nn, no @ row + lam * target),
            "1st": ((1 + lam) * nn, (no + lam * nn) @ row),
            "2nd": (lam * eye + nn, lam * row + no @ row),
            "both": (lam * eye + (1 + lam) * nn, lam * row + no @ row + lam * nn @ row),
        }[form]
        rows.append(torch.linalg.inv(system) @ side)
    return torch.stack(rows)


def rece(
    ws: list[Tensor], c: Tensor, t: Tensor, r: Tensor, *, e: float, p: float, first_p: float, lam: float,
    lam_r: float, epochs: int, form: str,
) -> list[Tensor]:  # fmt: skip
    """UCE, then derive and edit, every matrix on its own."""
    new = [uce(w, c, t, r, e, first_p, lam) for w in ws]
    for _ in range(epochs):
        returned = derived(ws, new, c, t, lam_r, form)
        new = [uce(w, returned, t, r, e, p, lam, current=n) for w, n in zip(ws, new, strict=True)]
    return new
