"""Edits of weights as products of two thin matrices, cut to the least rank that keeps a stated error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Product(NamedTuple):
    """ΔW = up · down, with the singular values shared evenly."""

    up: Tensor
    """(out rank)"""
    down: Tensor
    """(rank in)"""
    values: Tensor
    """All singular values of ΔW (rank,), the largest first; `up` and `down` may hold fewer."""

    def cut(self, rank: int) -> Product:
        """The best product of at most `rank`, filled up with zeros where ΔW has less."""
        missing = rank - self.up.shape[1]
        up = torch.nn.functional.pad(self.up[:, :rank], (0, max(0, missing)))
        return Product(up, torch.nn.functional.pad(self.down[:rank], (0, 0, 0, max(0, missing))), self.values)

    def rank_for(self, error: float) -> int:
        """The least rank whose product differs from ΔW by at most `error`, relative to its norm."""
        # What is left when k values are kept, for every k.
        left = self.values.square().flip(0).cumsum(0).flip(0).sqrt()
        return int((left > error * left[0]).sum()) if len(left) and left[0] > 0 else 0


def product(left: Tensor, right: Tensor) -> Product:
    """left · rightᵀ (out in) in singular form, from its factors (out n) and (in n), in float64."""
    q_left, r_left = torch.linalg.qr(left.double())
    q_right, r_right = torch.linalg.qr(right.double())
    u, values, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    root = values.sqrt()
    return Product(q_left @ (u * root), (root[:, None] * v) @ q_right.T, values)


def product_of(change: Tensor) -> Product:
    """A dense ΔW (out in) in singular form, in float64."""
    u, values, v = torch.linalg.svd(change.double(), full_matrices=False)
    root = values.sqrt()
    return Product(u * root, root[:, None] * v, values)
