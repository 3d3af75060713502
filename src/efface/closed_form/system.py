"""The one system behind every linear erasure of text states, in its primal and its dual form.

With concept rows C, target rows T (rows width), A = CᵀC, the mean second moment G of what is retained, and N the projector
off the span of what must stay exactly,

    (★)   M = I + e (T − C)ᵀ C N (λ I + e N A N + p N G N)⁻¹ N
    (★★)  M = I + e (T − C)ᵀ (I + e C V)⁻¹ Vᵀ,      V = N (λ I + p N G N)⁻¹ N Cᵀ

are the same map. It minimises e |M Cᵀ − Tᵀ|² + p tr((M − I) G (M − I)ᵀ) + λ |M − I|² among the maps that keep span(K). UCE is
N = I; SPEED (ℓ = 0), AlphaEdit and ACE are p = 0 with N off what is retained; double projections are λ → 0. In the dual form
the columns of V belong to one concept each; concepts meet in the small matrix C V alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from efface.closed_form.maps import LowRankMap
from efface.closed_form.ridge import cholesky
from efface.erasures.dual import solve_active

SYSTEM = "the edit's system: give a ridge weight above 0"


class Rows(NamedTuple):
    """Concept rows with their targets, and whose they are."""

    c: Tensor
    """C (rows width), in float64."""
    t: Tensor
    """T (rows width)."""
    owner: Tensor
    """Index of the concept that each row belongs to (rows,)."""

    @property
    def concepts(self) -> int:
        """How many concepts there are."""
        return int(self.owner.max()) + 1

    def of(self, concept: int) -> Rows:
        """The rows of one concept, as the only one."""
        mine = self.owner == concept
        return Rows(c=self.c[mine], t=self.t[mine], owner=torch.zeros_like(self.owner[mine]))

    @classmethod
    def stack(cls, blocks: list[tuple[Tensor, Tensor]]) -> Rows:
        """The rows of several concepts, one pair (C, T) each."""
        owner = [torch.full((len(c),), number) for number, (c, _) in enumerate(blocks)]
        return cls(c=torch.cat([c for c, _ in blocks]), t=torch.cat([t for _, t in blocks]), owner=torch.cat(owner))


@dataclass(frozen=True)
class Retention:
    """What an edit leaves as it is: softly by a second moment and a ridge, exactly by a basis."""

    gram: Tensor
    """G (width width), in float64."""
    ridge: float
    """λ."""
    hard: Tensor
    """Orthonormal basis of span(K) (width rank); rank 0 where nothing must stay exactly."""

    def outside(self, columns: Tensor) -> Tensor:
        """N X for X (width n)."""
        return columns - self.hard @ (self.hard.T @ columns)

    @cached_property
    def inner(self) -> Tensor:
        """N G N (width width)."""
        half = self.outside(self.gram)
        whole = self.outside(half.T)
        return (whole + whole.T) / 2

    def system(self, weight: float) -> Tensor:
        """λ I + p N G N (width width)."""
        system = weight * self.inner
        system.diagonal().add_(self.ridge)
        return system

    def spread(self, weight: float, c: Tensor) -> Tensor:
        """V = N (λ I + p N G N)⁻¹ N Cᵀ (width rows) for C (rows width)."""
        return self.outside(torch.cholesky_solve(self.outside(c.T), cholesky(self.system(weight), SYSTEM)))


def joint_map(rows: Rows, retention: Retention, *, erase: float, weight: float) -> LowRankMap:
    """The map (★) of all concepts, by whichever form has the smaller system.

    Args:
        rows: what is erased.
        retention: what stays.
        erase: e.
        weight: p.

    Raises:
        EffaceError: λ = 0 with too little retained.
    """
    if len(rows.c) < rows.c.shape[1]:
        return solve_dual(rows, retention.spread(weight, rows.c), erase)
    return solve_primal(rows, retention, erase=erase, weight=weight)


def solve_primal(rows: Rows, retention: Retention, *, erase: float, weight: float) -> LowRankMap:
    """(★): one factorisation (width width)."""
    outside = retention.outside(rows.c.T)  # N Cᵀ
    system = retention.system(weight) + erase * outside @ outside.T
    left = erase * (rows.t - rows.c).T @ outside.T  # e (T − C)ᵀ C N
    solved = torch.cholesky_solve(left.T, cholesky(system, SYSTEM))
    return LowRankMap(retention.outside(solved).T.contiguous(), torch.eye(len(system), dtype=system.dtype))


def solve_dual(rows: Rows, v: Tensor, erase: float) -> LowRankMap:
    """(★★) with the columns V of these rows: one factorisation (rows rows)."""
    return LowRankMap(*solve_active(rows.c, (rows.t - rows.c).T, v, erase))


class Outcome(NamedTuple):
    """What a map does, measured in keys and values."""

    progress: Tensor
    """How far each concept goes: 1 − |S^½(M c − t)| / |S^½(c − t)| for its leading row (concepts,)."""
    drift: float
    """How far the retained rows go, root mean square, in units of the concepts' distance to their targets."""


class Measure(NamedTuple):
    """The outcome of the map (★) for one weight after another; G and e CᵀC have the same trace."""

    rows: Rows
    retention: Retention
    s: Tensor
    """S = Σ WᵀW (width width)."""
    erase: float
    """e."""
    h: Tensor
    """(T − C) S (T − C)ᵀ (rows rows); only its diagonal where there are more rows than the width."""

    @classmethod
    def of(cls, rows: Rows, retention: Retention, s: Tensor, erase: float) -> Measure:
        """Everything that does not depend on the weight."""
        difference = (rows.t - rows.c).T
        mapped = s @ difference
        few = difference.shape[1] < len(s)
        h = difference.T @ mapped if few else (difference * mapped).sum(0)
        return cls(rows=rows, retention=retention, s=s, erase=erase, h=h)

    def at(self, weight: float) -> Outcome:
        """The outcome with this p."""
        return self._dual(weight) if self.h.ndim == 2 else self._primal(weight)

    def _dual(self, weight: float) -> Outcome:
        """M c − t = −(T − C)ᵀ Z with Z = (I + e C V)⁻¹, and p VᵀGV = C V − λ VᵀV: all of it (rows rows)."""
        v = self.retention.spread(weight, self.rows.c)
        cv = self.rows.c @ v
        inner = self.erase * (cv + cv.T) / 2
        inner.diagonal().add_(1.0)
        z = torch.cholesky_inverse(cholesky(inner, SYSTEM))
        hz = self.h @ z
        spread = (cv - self.retention.ridge * v.T @ v) / weight if weight else torch.zeros_like(cv)
        moved = self.erase * float((hz * (spread @ z).T).sum())
        return Outcome(self._progress((z * hz).sum(0), self.h.diagonal()), _drift(moved, float(self.h.trace())))

    def _primal(self, weight: float) -> Outcome:
        """The same from the map itself."""
        map_ = joint_map(self.rows, self.retention, erase=self.erase, weight=weight)
        leading = self._leading
        left = map_.apply(self.rows.c[leading].T) - self.rows.t[leading].T
        rest = torch.zeros_like(self.h).index_copy_(0, leading, (left * (self.s @ left)).sum(0))
        change = map_.u @ map_.v.T
        moved = float(((self.s @ change) * (change @ self.retention.gram)).sum())
        return Outcome(self._progress(rest, self.h), _drift(moved, self.erase * float(self.h.sum())))

    @property
    def _leading(self) -> Tensor:
        """Index of each concept's first row, which holds most of it (concepts,)."""
        owner = self.rows.owner
        return torch.cat([torch.tensor([0]), (owner[1:] != owner[:-1]).nonzero().flatten() + 1])

    def _progress(self, rest: Tensor, whole: Tensor) -> Tensor:
        """1 − √(rest / whole) of the leading rows; one that already is where it should be counts as there."""
        rest, whole = rest[self._leading].clamp(min=0), whole[self._leading]
        share = rest / whole.clamp(min=torch.finfo(whole.dtype).tiny)
        return torch.where(whole > 0, 1 - share.sqrt(), 1.0)


def _drift(moved: float, way: float) -> float:
    """√(moved / way); 0 where concepts and targets have the same keys and values, so that nothing moves."""
    return (max(0.0, moved) / way) ** 0.5 if way > 0 else 0.0
