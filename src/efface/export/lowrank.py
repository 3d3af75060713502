"""Edits of weights as products of two thin matrices: how many columns hold an edit to a stated error, once they are stored."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Basis(NamedTuple):
    """A right factor (in n) as q · r; layers that read the same text share it."""

    q: Tensor
    """Orthonormal columns (in k)."""
    r: Tensor
    """(k n)."""


class Product(NamedTuple):
    """ΔW ≈ up · down in the precision in which it is stored."""

    up: Tensor
    """(out rank), the largest part of ΔW first."""
    down: Tensor
    """(rank in)."""
    errors: Tensor
    """‖ΔW − up · down‖ / ‖ΔW‖ in the Frobenius norm where only the first 0, 1, … rank columns are kept (rank + 1,)."""

    def rank_for(self, error: float) -> int | None:
        """The least rank of at most this error; None where there is none."""
        enough = (self.errors <= error).nonzero()
        return int(enough[0]) if len(enough) else None

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        """The two factors at one rank, filled up with zeros where there are fewer columns."""
        missing = max(0, rank - self.up.shape[1])
        up = torch.nn.functional.pad(self.up[:, :rank], (0, missing))
        return up.contiguous(), torch.nn.functional.pad(self.down[:rank], (0, 0, 0, missing)).contiguous()


def basis_of(right: Tensor) -> Basis:
    """The basis of a right factor (in n), in float64."""
    return Basis(*torch.linalg.qr(right.double()))


def product(left: Tensor, basis: Basis, dtype: torch.dtype, *, error: float = 0.0, rank: int | None = None) -> Product:
    """left · rightᵀ (out in), rounded to `dtype`, with the error of every rank as rounded.

    Both factors carry the root of each singular value, so that neither under- nor overflows where the other does not.

    Args:
        left: (out n).
        basis: of the right factor (in n).
        dtype: in which the factors are stored.
        error: columns that matter less than a tenth of it together are left out at once.
        rank: columns to keep instead.
    """
    core = left.double() @ basis.r.T  # ΔW = core qᵀ
    vectors = torch.linalg.eigh(core.T @ core).eigenvectors.flip(1)
    # ΔW is the sum of (core v)(q v)ᵀ for any orthogonal V: what the Gram matrix loses in precision costs order, not accuracy.
    up = core @ vectors
    sizes = up.norm(dim=0)
    left_out = sizes.square().flip(0).cumsum(0).flip(0).sqrt()
    total = core.norm()
    count = int((sizes > 0).sum()) if rank is None else rank
    count = min(count, int((left_out > max(0.1 * error, 1e-15) * total).sum()))
    root = sizes[:count].sqrt()
    stored_up = (up[:, :count] / root).to(dtype)
    stored_down = (basis.q @ (vectors[:, :count] * root)).T.to(dtype)
    return Product(stored_up, stored_down, _errors(core, basis, stored_up.double(), stored_down.double()))


def _errors(core: Tensor, basis: Basis, up: Tensor, down: Tensor) -> Tensor:
    """Relative error of the first 0, 1, … columns of a product, through matrices of its rank only."""
    total = core.norm()
    if total == 0:
        return torch.zeros(1, dtype=torch.float64)
    # ‖ΔW − Σ bₖ aₖ‖² = ‖ΔW‖² − 2 Σ bₖᵀ ΔW aₖ + Σ (bᵢᵀ bⱼ)(aᵢ aⱼᵀ), each sum over the columns that are kept.
    shared = ((core.T @ up) * (basis.q.T @ down.T)).sum(0).cumsum(0)
    gram = (up.T @ up) * (down @ down.T)
    own = (2 * gram.tril().sum(1) - gram.diagonal()).cumsum(0)
    squares = (total.square() - 2 * shared + own).clamp(min=0)
    return torch.cat([torch.ones(1, dtype=torch.float64), squares.sqrt() / total])
