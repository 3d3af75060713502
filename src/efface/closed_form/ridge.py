"""The algebra shared by the closed-form erasers: ridge edits of text states as one map M = I + U Vᵀ.

A text state c is a column in the formulas and a row of the tensors. With the "replace" target every key and value
matrix W becomes W M, so that nothing here knows how many matrices there are. Everything is float64; systems are
solved by Cholesky factorisation, never by an explicit inverse.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.closed_form.maps import LowRankMap
from efface.errors import EffaceError
from efface.models.precision import on_cpu

MOST_CONDITION = 1e10
"""Condition number above which the inverse of a matrix is warned of."""


@dataclass(frozen=True)
class RowPairs:
    """Concept rows C and target rows T (rows width), reduced to their products once there are more rows than `width`.

    An edit needs only CᵀC and (T − C)ᵀC, so a thousand concepts cost no more memory than ten.
    """

    cc: Tensor
    """CᵀC (width width)"""
    tc: Tensor
    """TᵀC (width width)"""
    tt: Tensor
    """TᵀT (width width)"""
    rows: tuple[Tensor, Tensor] | None
    """C and T themselves (each rows width) while they have fewer rows than `width`, else None."""

    @classmethod
    def gather(cls, pairs: Iterable[tuple[Tensor, Tensor]]) -> RowPairs:
        """Sum the products of pairs (C, T), each (rows width), reading one pair at a time."""
        sums: list[Tensor] = []
        kept: list[tuple[Tensor, Tensor]] | None = []
        for concept, target in pairs:
            c, t = on_cpu(concept), on_cpu(target)
            width = c.shape[1]
            sums = sums or [torch.zeros(width, width, dtype=c.dtype) for _ in range(3)]
            for total, left, right in zip(sums, (c, t, t), (c, c, t), strict=True):
                total.addmm_(left.T, right)
            if kept is not None:
                kept.append((c, t))
                kept = kept if sum(len(rows) for rows, _ in kept) < width else None
        rows = (torch.cat([c for c, _ in kept]), torch.cat([t for _, t in kept])) if kept else None
        cc, tc, tt = sums
        return cls(cc=cc, tc=tc, tt=tt, rows=rows)

    def derive(self, function: Callable[[Tensor, Tensor], Tensor]) -> RowPairs:
        """The pairs (c', t) with c' = `function`(c, t), which is linear in columns c and t (width n)."""
        if self.rows is not None:
            c, t = self.rows
            return RowPairs.gather([(function(c.T, t.T).T, t)])
        eye = torch.eye(len(self.cc), dtype=self.cc.dtype)
        zero = torch.zeros_like(self.cc)
        a = function(eye, zero)
        b = function(zero, eye)
        mixed = a @ self.tc.T @ b.T
        cc = a @ self.cc @ a.T + mixed + mixed.T + b @ self.tt @ b.T
        return RowPairs(cc=cc, tc=self.tc @ a.T + self.tt @ b.T, tt=self.tt, rows=None)

    def edit(self, retained: Tensor, *, erase: float, preserve: float, ridge: float) -> LowRankMap:
        """The ridge edit C → T (UCE, arXiv 2308.14761, eq. 7):

            M = (λ I + e TᵀC + p RᵀR)(λ I + e CᵀC + p RᵀR)⁻¹ = I + e (T − C)ᵀ C B⁻¹

        Args:
            retained: RᵀR (width width).
            erase: weight e of the concept rows.
            preserve: weight p of the retained rows.
            ridge: weight λ of the identity, which keeps states as they are.

        Raises:
            EffaceError: the system is singular (λ = 0 with too few retained rows).
        """
        width = len(self.cc)
        gram = ridge * torch.eye(width, dtype=torch.float64) + erase * self.cc + preserve * retained
        factor = cholesky(gram, "the edit's system: give a ridge weight above 0")
        if self.rows is None:
            change = erase * (self.tc - self.cc)
            return LowRankMap(torch.cholesky_solve(change.T, factor).T, torch.eye(width, dtype=torch.float64))
        c, t = self.rows
        return LowRankMap(erase * (t - c).T, torch.cholesky_solve(c.T, factor))


def gram_of(rows: Iterable[Tensor], width: int) -> Tensor:
    """RᵀR (width width) over batches of retained rows (rows width)."""
    total = torch.zeros(width, width, dtype=torch.float64)
    for batch in rows:
        wide = on_cpu(batch)
        total += wide.T @ wide
    return total


def cholesky(matrix: Tensor, what: str) -> Tensor:
    """Cholesky factor of a symmetric positive definite matrix; raises EffaceError naming `what` otherwise."""
    if not torch.isfinite(matrix).all():
        raise EffaceError(
            "the model or its text states hold values that are not finite: nothing was erased; check the weights."
        )
    factor, failed = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal()
    if failed.any() or (pivots.min() / pivots.max()) ** 2 < 1e-15:
        raise EffaceError(f"a matrix is singular in {what}.")
    return factor


def warn_of_condition(matrix: Tensor, what: str) -> None:
    """Warn, naming `what`, where the condition number of a symmetric positive definite matrix is above `MOST_CONDITION`."""
    values = torch.linalg.eigvalsh(matrix)
    condition = float(values[-1] / values[0].clamp(min=torch.finfo(values.dtype).tiny))
    if condition > MOST_CONDITION:
        warnings.warn(f"the condition number is {condition:.0e}, above {MOST_CONDITION:.0e}, of {what}.", stacklevel=3)
