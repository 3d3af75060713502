"""The parts of SPEED (arXiv 2503.07392) as its public code has them, with one map for all matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.closed_form.maps import LowRankMap
from efface.models.model import Model
from efface.models.precision import on_cpu

CENTRES = 3
"""Means of the empty prompt's positions that are kept beside the begin token."""
ROUNDS = 20
"""Of k-means."""


def influential(r: Tensor, c: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Those retained rows (rows width) that the unconstrained edit moves by more than the mean, in keys and values.

    The code filters for each matrix; here S = Σ WᵀW speaks for all.
    """
    if not len(r):
        return r
    eye = torch.eye(c.shape[1], dtype=c.dtype)
    moment = c.T @ c / len(c)
    edit = torch.linalg.solve(eye + moment, ((t - c).T @ c / len(c)).T).T  # D̅ (I + A̅)⁻¹, both moments symmetric
    change = edit @ r.T
    moved = (change * (s @ change)).sum(0).clamp(min=0).sqrt()
    return r[moved >= moved.mean()]


def null_projector(r: Tensor, threshold: float) -> Tensor:
    """P (width width): onto the eigenvectors of the mean moment of R whose eigenvalue is below the threshold, in units of
    the mean eigenvalue."""
    width = r.shape[1]
    if not len(r):
        return torch.eye(width, dtype=r.dtype)
    values, vectors = torch.linalg.eigh(r.T @ r / len(r))
    free = vectors[:, values < threshold * values.clamp(min=0).sum() / width]
    return free @ free.T


def constraints(model: Model, s: Tensor) -> Tensor:
    """K (width columns): the begin token, three means of the empty prompt's other positions, and the eigenvector of S of the
    smallest value. Means are found from evenly spaced positions, not from random ones."""
    text = model.encode([""])
    rows = on_cpu(model.projection_inputs(text))[0]
    rows = rows if model.family.reads_padding else rows[text.mask[0].cpu()]
    means = _means(rows[1:], min(CENTRES, len(rows) - 1)) if len(rows) > 1 else rows[:0]
    least = torch.linalg.eigh(s).eigenvectors[:, :1]
    return torch.cat([rows[:1].T, means.T, least], dim=1)


def _means(rows: Tensor, count: int) -> Tensor:
    """Centres (count width) of rows by Lloyd's algorithm."""
    centres = rows[torch.arange(count) * len(rows) // count]
    for _ in range(ROUNDS):
        nearest = torch.cdist(rows, centres).argmin(1)
        centres = torch.stack(
            [rows[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(count)]
        )
    return centres


def speed_map(c: Tensor, t: Tensor, p: Tensor, k: Tensor, *, alpha: float, soft: float) -> LowRankMap:
    """M = I + D̅ P [I − Mᵢ K (KᵀP Mᵢ K + ℓ I)⁻¹ KᵀP] Mᵢ with Mᵢ = (A̅ P + α I)⁻¹.

    With ℓ = 0 it is the map (★) of `efface.closed_form.system` with p = 0, λ = α n e and N = P off span(P K); linearly
    dependent constraints count once.

    Args:
        c: C (rows width).
        t: T (rows width).
        p: P (width width).
        k: K (width columns).
        alpha: α.
        soft: ℓ.
    """
    width = len(p)
    inner = c.T @ c / len(c) @ p
    inner.diagonal().add_(alpha)
    factor = torch.linalg.lu_factor(inner)
    if not soft:  # dependent columns of P K would make the small system singular
        outside = p @ k
        u, values, _ = torch.linalg.svd(outside, full_matrices=False)
        k = u[:, values > 1e-9 * max(1.0, float(values.max()))] if values.numel() else outside
    mk = torch.linalg.lu_solve(*factor, k)
    small = k.T @ p @ mk + soft * torch.eye(k.shape[1], dtype=k.dtype)
    # (T − C)ᵀ / n on the left, C P [...] Mᵢ on the right.
    right = c @ p
    right = right - right @ mk @ torch.linalg.solve(small, k.T @ p)
    v = torch.linalg.lu_solve(*factor, right.contiguous(), left=False)
    u = (t - c).T / len(c)
    return LowRankMap(u, v.T) if len(c) <= width else LowRankMap(u @ v, torch.eye(width, dtype=u.dtype))
