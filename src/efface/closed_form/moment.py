"""A sum of outer products of rows: dense, or of low rank with an even rest where the text is wide."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from efface.io.checkpoint import State

WIDEST = 2048
"""Width up to which the sum is kept whole: at T5's 4096 it would take 134 MB."""
RANK = 512
"""Rank beyond it."""


class Moment(NamedTuple):
    """Σ r rᵀ over rows r (width,), as `dense`, or as F Fᵀ with `factor` F and an even `rest` beside it."""

    dense: Tensor | None
    """(width width) in float64."""
    factor: Tensor | None
    """F (width rank) in float32."""
    rest: float
    """Energy that F lost."""

    @classmethod
    def empty(cls, width: int, widest: int = WIDEST) -> Self:
        """The sum of nothing."""
        if width <= widest:
            return cls(torch.zeros(width, width, dtype=torch.float64), None, 0.0)
        return cls(None, torch.zeros(width, 0), 0.0)

    def add(self, rows: Tensor) -> Moment:
        """The sum with more rows (rows width)."""
        if self.dense is not None:
            wide = rows.double()
            return self._replace(dense=self.dense + wide.T @ wide)
        assert self.factor is not None
        moment = self
        for part in rows.float().split(RANK):
            moment = moment._cut(torch.cat([moment.factor, part.T], dim=1))  # type: ignore[list-item]
        return moment

    def _cut(self, factor: Tensor) -> Moment:
        """The best of rank RANK of a factor (width columns), with what it loses added to the rest."""
        if factor.shape[1] <= RANK:
            return self._replace(factor=factor)
        values, vectors = torch.linalg.eigh(factor.T.double() @ factor.double())
        lost = float(values[:-RANK].clamp(min=0).sum())
        return self._replace(factor=factor @ vectors[:, -RANK:].float(), rest=self.rest + lost)

    def without(self, rows: Tensor, count: int) -> Tensor:
        """The mean (width width) of trace 1 in float64 after some of its unit rows (rows width) left a sum of `count`.

        Of a low-rank sum the rows leave approximately: what would become negative is cut off.
        """
        if self.dense is not None:
            return (self.dense - rows.T @ rows) / max(1, count - len(rows))
        assert self.factor is not None
        factor = self.factor.double()
        if len(rows):
            q, r = torch.linalg.qr(torch.cat([factor, rows.T], dim=1))
            own, left = r[:, : factor.shape[1]], r[:, factor.shape[1] :]
            values, vectors = torch.linalg.eigh(own @ own.T - left @ left.T)
            factor = q @ (vectors * values.clamp(min=0).sqrt())
        gram = factor @ factor.T
        if self.rest:  # evenly over the directions that the factor leaves out
            basis = torch.linalg.qr(factor)[0]
            even = self.rest / (len(factor) - basis.shape[1])
            gram -= even * basis @ basis.T
            gram.diagonal().add_(even)
        return gram / gram.trace()

    def to_state(self) -> State:
        """Tensors of a file."""
        if self.dense is not None:
            return {"gram": self.dense}
        assert self.factor is not None
        return {"factor": self.factor, "rest": torch.tensor(self.rest, dtype=torch.float64)}

    @classmethod
    def restore(cls, state: State) -> Self:
        """The sum that `to_state` wrote; KeyError where the state holds none."""
        if "gram" in state:
            return cls(state["gram"], None, 0.0)
        return cls(None, state["factor"], float(state["rest"]))
