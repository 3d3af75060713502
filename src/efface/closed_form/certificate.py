"""Bound on how much of a concept's keys and values any text state of bounded norm can recover through a text map.

For a map M and a row c of the concept,

    recoverable(r) = 1 − min over |c'| ≤ r of |S^½ (M c' − c)| / |S^½ c|,     S = Σ WᵀW,

is a least-squares problem on a ball with an exact answer: one eigen-decomposition of MᵀSM, then a scalar search for the
multiplier. It is RECE's derivation (arXiv 2407.12383) read as a bound. It bounds one route, copying the concept's keys
and values; a picture may also be redrawn by other states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.closed_form.closed_gate import Spectrum, closed_distance
from efface.closed_form.gram import key_value_gram_of
from efface.closed_form.maps import LowRankMap
from efface.closed_form.nullspace import rounding
from efface.closed_form.rows import concept_rows
from efface.concepts.sample import evenly_spaced
from efface.erasures import Erasure, GatedMap, TextMap
from efface.errors import EffaceError
from efface.models.model import Model

MOST = 4
"""Concepts of a gated map that a certificate looks at: each takes two decompositions of the width."""


class Curve(NamedTuple):
    """Recoverable share of the concept, by the norm of the attacking state."""

    norms: tuple[float, ...]
    """r, in units of the mean norm of the concept's rows."""
    recoverable: tuple[float, ...]
    """Recoverable share, mean over the concept's rows, 0 (nothing) to 1 (all of it)."""
    worst: tuple[float, ...]
    """Recoverable share of the row of which most can be recovered."""
    reachable: float
    """The largest norm that the text encoder's last normalisation can produce, in the same units; infinite if unknown."""


def certificate(
    model: Model, erasure: Erasure, norms: Sequence[float] = (0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 100)
) -> Curve:
    """The recoverable share through a text map on its own model, for the concept's rows from the last subject token on.

    Through a gated map it is the larger of two: of states that leave the concept's gates shut, and of states that open its
    gates alone or those of all concepts. With `union` no other case exists; without, other sets of concepts may act. Of more
    than MOST concepts, so many evenly spaced ones are looked at.

    Raises:
        EffaceError: the erasure is neither.
    """
    if not isinstance(erasure, TextMap | GatedMap):
        raise EffaceError(f"a certificate needs a text map, this erasure is of kind {erasure.kind!r}.")
    numbers = range(len(erasure.provenance.concepts))
    if isinstance(erasure, GatedMap):
        numbers = evenly_spaced(list(numbers), MOST)
    rows = [concept_rows(model, erasure.provenance.concepts[i], "subject")[0].double().cpu() for i in numbers]
    unit = float(torch.cat(rows).norm(dim=1).mean())
    s = key_value_gram_of(model)
    radii = [unit * r for r in norms]
    if isinstance(erasure, GatedMap):
        parts = [gated_recoverable(erasure, i, s, c, radii) for i, c in zip(numbers, rows, strict=True)]
        shares = torch.cat(parts, dim=1)
    else:
        map_ = LowRankMap(erasure.u.double(), erasure.v.double())
        shares = recoverable(map_, s, torch.cat(rows), radii)
    return Curve(
        norms=tuple(float(r) for r in norms),
        recoverable=tuple(shares.mean(1).tolist()),
        worst=tuple(shares.amax(1).tolist()),
        reachable=largest_norm(model) / unit,
    )


def gated_recoverable(erasure: GatedMap, concept: int, s: Tensor, c: Tensor, norms: Sequence[float]) -> Tensor:
    """The share that any state of these norms recovers of a concept's rows through a gated map (norms rows).

    Args:
        erasure: the map.
        concept: index of the concept.
        s: Σ WᵀW (width width).
        c: its rows (rows width).
        norms: values of r.
    """
    gates = erasure.gates
    spectrum = Spectrum.of(s)
    whole = (c @ s * c).sum(1).clamp(min=torch.finfo(c.dtype).tiny).sqrt()
    mine = (gates.concept == concept).nonzero().flatten().tolist()
    distance = [
        max(
            closed_distance(spectrum, z, gates.weights[i].double(), float(gates.thresholds[i]))
            for i in mine  # all of them are shut
        )
        for z in c - gates.centre.double()
    ]
    closed = 1 - torch.tensor(distance, dtype=c.dtype) / whole
    shut = torch.minimum(recoverable(LowRankMap.identity(len(s)), s, c, norms), closed)
    everyone = tuple(range(erasure.concepts))
    shares = shut
    for active in dict.fromkeys([everyone] if erasure.union else [(concept,), everyone]):
        u, v = erasure.factors_of(active)
        shares = torch.maximum(shares, recoverable(LowRankMap(u.double(), v.double()), s, c, norms))
    return shares


def recoverable(map_: LowRankMap, s: Tensor, c: Tensor, norms: Sequence[float]) -> Tensor:
    """The share recoverable(r) of every row at every norm (norms rows).

    Args:
        map_: M.
        s: Σ WᵀW (width width).
        c: the concept's rows (rows width).
        norms: values of r.
    """
    values, vectors = torch.linalg.eigh(map_.congruent(s))
    values = torch.where(values > rounding(values), values, 0.0)
    gradient = vectors.T @ map_.apply_transposed(s @ c.T)  # Qᵀ MᵀS c (width rows)
    whole = (c @ s * c).sum(1)  # |S^½ c|²
    shares = []
    for r in norms:
        y = _on_ball(values, gradient, r)
        residual = (values[:, None] * y.square() - 2 * y * gradient).sum(0) + whole
        shares.append(1 - (residual.clamp(min=0) / whole).sqrt())
    return torch.stack(shares)


def _on_ball(values: Tensor, gradient: Tensor, r: float, iterations: int = 100) -> Tensor:
    """y (width rows) that minimises Σ λ y² − 2 y g on |y| ≤ r: y = g/(λ + μ) with the least μ ≥ 0 that fits."""

    def at(multiplier: Tensor) -> Tensor:
        bottom = values[:, None] + multiplier
        # Where λ and μ are 0 the gradient is 0 too, up to rounding: that direction changes nothing.
        return torch.where(bottom > 0, gradient / bottom.clamp(min=torch.finfo(bottom.dtype).tiny), 0.0)

    low = torch.zeros(gradient.shape[1], dtype=gradient.dtype)
    high = gradient.norm(dim=0) / r + 1e-300  # there |y| ≤ r for sure
    free = at(low).norm(dim=0) <= r
    for _ in range(iterations):
        middle = (low + high) / 2
        outside = at(middle).norm(dim=0) > r
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    return at(torch.where(free, 0.0, high))


def largest_norm(model: Model) -> float:
    """A bound on the norm of any text state: after a layer normalisation, √width · max|γ| + |β|; infinite without one."""
    total = 0.0
    for encoder in model.family.text_encoders().values():
        norms = [m for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)]
        if not norms:
            return float("inf")
        last = norms[-1]
        width = last.normalized_shape[0]
        gain = last.weight.detach().float()
        bias = last.bias.detach().float()
        total += (width**0.5 * float(gain.abs().max()) + float(bias.norm())) ** 2
    return total**0.5
