"""A concept's rows reduced to the few that carry them, so that a thousand concepts are a matter of seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from efface.models.precision import on_cpu

RANK = 8
"""Rows kept of a concept."""
ENERGY = 0.99
"""Share of its energy at which fewer are enough."""
SMALL = 64
"""Rows up to which the decomposition is exact."""


class Block(NamedTuple):
    """The rows of one concept and their targets, rotated alike: CᵀC and TᵀC stay, up to the cut."""

    c: Tensor
    """(rows width), in float64."""
    t: Tensor
    """(rows width)"""


def compress(concept: Tensor, target: Tensor, rank: int = RANK, energy: float = ENERGY) -> Block:
    """At most `rank` rows Uᵀ C and Uᵀ T, with U the left singular vectors of C that hold the share `energy`.

    Args:
        concept: C (rows width).
        target: T (rows width).
        rank: most rows.
        energy: share of |C|² at which no more are taken, 0 to 1.
    """
    c, t = on_cpu(concept), on_cpu(target)
    u, values = _leading(c, rank)
    held = values.square().cumsum(0)
    count = min(len(values), rank, int((held < energy * c.square().sum()).sum()) + 1)
    return Block(u[:, :count].T @ c, u[:, :count].T @ t)


def _leading(c: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Left singular vectors (rows k) and singular values (k,) of C, the largest first; of many rows the leading ones only,
    by subspace iteration (Halko et al., 2011, algorithm 4.4)."""
    if min(c.shape) <= SMALL:
        u, values, _ = torch.linalg.svd(c, full_matrices=False)
        return u, values
    start = torch.randn(c.shape[1], 2 * rank, generator=torch.Generator().manual_seed(0), dtype=c.dtype)
    q = torch.linalg.qr(c @ start)[0]
    for _ in range(3):
        q = torch.linalg.qr(c @ (q.T @ c).T)[0]  # qᵀC takes a tenth of the time of Cᵀq
    u, values, _ = torch.linalg.svd(q.T @ c, full_matrices=False)
    return q @ u, values


class Collected:
    """Passes pairs (C, T) on and keeps a block of each."""

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]):
        self.pairs = pairs
        self.blocks: list[Block] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for c, t in self.pairs:
            self.blocks.append(compress(c, t))
            yield c, t
