"""Edits outside the span of retained rows, which therefore stay exactly as they are; shared by `preserve` and `project`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.closed_form.maps import LowRankMap
from efface.closed_form.ridge import RowPairs, cholesky, gram_of
from efface.closed_form.rows import RowRule, concept_rows, retained_rows, text_width, with_aliases
from efface.concepts.concept import Concept
from efface.models.model import Model


class FreeSpace(NamedTuple):
    """The orthogonal complement of the retained span, in which edits work."""

    projector: Tensor
    """P (width width), the orthogonal projector onto it."""
    dimensions: int
    """Its dimension."""


def free_space(retained: Tensor, share: float) -> FreeSpace:
    """The space outside the span of retained rows, where the span is cut at a share of their energy.

    Many rows span the whole width, which would leave nothing to edit; directions that hold the rest of the energy are
    therefore not retained.

    Args:
        retained: RᵀR (width width).
        share: share of the trace of RᵀR that stays exactly, 0 to 1.
    """
    values, vectors = torch.linalg.eigh(retained)
    values = torch.where(values > rounding(values), values, 0.0)
    energy = values.flip(0).cumsum(0)
    # The smallest number of directions that holds the share; those without any energy never count.
    rank = min(int((energy < share * energy[-1]).sum()) + 1, int((values > 0).sum()))
    span = vectors[:, len(values) - rank :]
    projector = torch.eye(len(values), dtype=retained.dtype) - span @ span.T
    return FreeSpace(projector, len(values) - rank)


def ridge_outside(pairs: RowPairs, projector: Tensor, ridge: float) -> LowRankMap:
    """M = I + (T − C)ᵀ C P (λ I + P CᵀC P)⁻¹ P: the ridge edit, with M r = r on the retained span."""
    inner = projector @ pairs.cc @ projector
    inner.diagonal().add_(ridge)
    factor = cholesky((inner + inner.T) / 2, "the edit's system: give a ridge weight above 0")
    return _low_rank(pairs, projector, torch.cholesky_solve(projector, factor))


def exact_outside(pairs: RowPairs, projector: Tensor, tolerance: float) -> LowRankMap:
    """M = I + (T − C)ᵀ (P Cᵀ)⁺: the edit without a ridge, with M c = t and M r = r wherever both can hold.

    Singular values of C P below `tolerance` times the largest count as 0.
    """
    values, vectors = torch.linalg.eigh(projector @ pairs.cc @ projector)
    large = values > torch.maximum(tolerance**2 * values.max(), rounding(values))
    inverse = (vectors[:, large] / values[large]) @ vectors[:, large].T
    return _low_rank(pairs, projector, inverse @ projector)


def rounding(values: Tensor) -> Tensor:
    """Bound on the rounding error of eigenvalues; those below it count as 0."""
    return values.abs().max() * len(values) * torch.finfo(values.dtype).eps


def targets_inside(pairs: RowPairs, projector: Tensor) -> RowPairs:
    """The same pairs with targets projected onto the retained span: t' = (I − P) t."""
    inside = torch.eye(len(projector), dtype=projector.dtype) - projector
    rows = None if pairs.rows is None else (pairs.rows[0], pairs.rows[1] @ inside)
    return RowPairs(cc=pairs.cc, tc=inside @ pairs.tc, tt=inside @ pairs.tt @ inside, rows=rows)


def own_inside(pairs: RowPairs, projector: Tensor) -> RowPairs:
    """The same concept rows with their own projections onto the retained span for targets: t' = (I − P) c."""
    own = None if pairs.rows is None else (pairs.rows[0], pairs.rows[0])
    return targets_inside(RowPairs(cc=pairs.cc, tc=pairs.cc, tt=pairs.cc, rows=own), projector)


def _low_rank(pairs: RowPairs, projector: Tensor, solved: Tensor) -> LowRankMap:
    """M with M − I = (T − C)ᵀ C P · solved, with the rows themselves as factors while they are few; `solved` is symmetric."""
    if pairs.rows is None:
        return LowRankMap((pairs.tc - pairs.cc) @ projector @ solved, torch.eye(len(projector), dtype=projector.dtype))
    c, t = pairs.rows
    return LowRankMap((t - c).T, solved.T @ projector @ c.T)


def gather_rows(
    model: Model, concepts: Sequence[Concept], rows: RowRule, keep: Sequence[str], keep_rows: RowRule
) -> tuple[RowPairs, Tensor]:
    """The concepts' row pairs, and the Gram matrix (width width) of the retained rows."""
    retained = gram_of(retained_rows(model, keep, keep_rows), text_width(model))
    return RowPairs.gather(concept_rows(model, c, rows) for c in with_aliases(concepts, False)), retained


def retained_drift(map_: LowRankMap, retained: Tensor) -> float:
    """Relative change of the retained rows, √(Σ|M r − r|² / Σ|r|²), from their Gram matrix."""
    change = map_.u @ map_.v.T
    total = float(retained.trace())
    return (float((change @ retained @ change.T).trace().clamp(min=0)) / total) ** 0.5 if total else 0.0
