"""The retained weight, found rather than set: as large as lets the concepts go, as small as keeps the others.

At one weight the retained rows of five concepts and of forty drift equally far, while the concepts go less and less far: what
more concepts cost is paid in progress. Progress alone would therefore be bought with the others; the drift is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.closed_form.blocks import Block
from efface.closed_form.maps import LowRankMap
from efface.closed_form.ridge import RowPairs
from efface.closed_form.system import Measure, Outcome, Retention, Rows

LOWEST, HIGHEST = -4.0, 2.0
"""Range of the search, powers of ten of p; concept and retained rows have the same energy at p = 1."""
STEPS = 7
"""Halvings of it: the weight is found to a factor of 1.12."""
SHARE = 0.05
"""Quantile of the concepts that must have gone: the slowest twentieth is not waited for."""
GOAL = 0.9
"""Progress that counts as gone."""
DRIFT = 0.3
"""How far the retained rows may go, in units of the concepts' way: at a third of it pictures still show what they should."""

ADDED = 0.1
"""How far an edit that comes on top of another may move them besides."""
WIDEST = 4.0
"""The largest weight of such an edit, a power of ten."""


class FoundWeight(NamedTuple):
    """A retained weight, and what it leads to."""

    weight: float
    """p."""
    progress: float
    """How far the concept at the quantile SHARE goes, 0 to 1."""
    drift: float
    """How far the retained rows go, in units of the concepts' way."""

    def notes(self) -> dict[str, float]:
        """What an erasure's notes say of the search."""
        return {"weight": self.weight, "progress": round(self.progress, 4), "drift": round(self.drift, 4)}

    def remark(self) -> str:
        """What was found, in a sentence."""
        return (
            f"retained weight {self.weight:.3g}: 95% of the concepts go at least {100 * self.progress:.0f}% of the way to "
            f"what takes their place, what is retained moves by {100 * self.drift:.0f}% of that way."
        )


def find_weight(at: Callable[[float], Outcome], goal: float = GOAL, drift: float = DRIFT) -> FoundWeight:
    """The largest p with which the concepts at the quantile SHARE make the progress `goal`, or a larger one where the
    retained rows would drift too far with it; both fall as p grows.

    Args:
        at: p -> outcome.
        goal: progress, 0 to 1.
        drift: most that retained rows may move, in units of the concepts' way.
    """
    low, high = LOWEST, HIGHEST
    below, above = _found(10**low, at(10**low)), None
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = _found(10**middle, at(10**middle))
        if found.progress >= goal or found.drift > drift:
            low, below = middle, found
        else:
            high, above = middle, found
    return below if above is None or below.progress >= goal else above


def _found(weight: float, outcome: Outcome) -> FoundWeight:
    slowest = torch.quantile(outcome.progress, SHARE, interpolation="lower")
    return FoundWeight(weight=weight, progress=float(slowest), drift=outcome.drift)


def weight_for(
    rows: Rows, retention: Retention, s: Tensor, *, erase: float, goal: float = GOAL, weight: float | None = None
) -> FoundWeight:
    """The weight of a map (★), and what it leads to.

    Args:
        rows: what is erased.
        retention: what stays, with G of the trace of e CᵀC.
        s: Σ WᵀW (width width), by which progress and drift are measured.
        erase: e.
        goal: progress, 0 to 1.
        weight: p, where the user names it.
    """
    measure = Measure.of(rows, retention, s, erase)
    if weight is None:
        return find_weight(measure.at, goal)
    return _found(weight, measure.at(weight))


def weight_within(drift: Callable[[float], float], most: float = ADDED) -> float:
    """The smallest p with which an edit moves the retained rows by at most `most` of the concepts' way; 10^WIDEST where none
    is large enough.

    Args:
        drift: p -> how far the retained rows go, which falls as p grows.
        most: in units of the concepts' way.
    """
    low, high = LOWEST, WIDEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if drift(10**middle) > most else (low, middle)
    return 10**high


class Balance(NamedTuple):
    """The weights of a ridge edit whose moments are averaged."""

    preserve: float
    """p of the summed form: what multiplies RᵀR."""
    ridge: float
    """λ of the summed form."""
    unit: float
    """What multiplies RᵀR at p = 1."""
    found: FoundWeight | None
    """The search, where there was one."""

    @property
    def weight(self) -> float:
        """p of the averaged form."""
        return self.preserve / self.unit

    def notes(self) -> dict[str, Any]:
        """What an erasure's notes say of the search."""
        if self.found is None:
            return {}
        return self.found.notes() | {"remarks": [self.found.remark()]}


def balance(
    blocks: list[Block],
    pairs: RowPairs,
    retained: Tensor,
    s: Callable[[], Tensor],
    *,
    erase: float,
    ridge: float,
    weight: float | None,
) -> Balance:
    """The weights in the published sum that stand for averaged moments: equal energies at p = 1, λ once a concept.

    With them repeating every concept or every retained row changes nothing, and one weight serves one concept and forty.

    Args:
        blocks: each concept's rows, by which progress is measured.
        pairs: all rows.
        retained: RᵀR (width width).
        s: makes Σ WᵀW where it is needed.
        erase: e.
        ridge: λ of a single concept.
        weight: p of the averaged form; None has it found.
    """
    each = ridge * len(blocks)
    unit = _unit(pairs, retained, erase)
    if weight is None and not retained.any():
        weight = 0.0  # nothing is retained, whatever its weight
    found = None
    if weight is None:
        rows = Rows.stack([(block.c, block.t) for block in blocks])
        none = torch.zeros(len(retained), 0, dtype=retained.dtype)
        found = weight_for(rows, Retention(gram=unit * retained, ridge=each, hard=none), s(), erase=erase)
        weight = found.weight
    return Balance(preserve=weight * unit, ridge=each, unit=unit, found=found)


def epoch_balance(
    derived: RowPairs,
    map_: LowRankMap,
    s: Tensor,
    retained: Tensor,
    first: Balance,
    erase: float,
    *,
    distance: RowPairs,
) -> Balance:
    """The weights of one more edit on top of a map, with p as small as moves the retained rows little.

    Args:
        derived: rows of the edit.
        map_: M, what acts after it.
        s: Σ WᵀW (width width).
        retained: RᵀR (width width).
        first: weights of the map.
        erase: e.
        distance: the concepts' own rows, whose way to their targets is the unit of drift.
    """
    congruent = map_.congruent(s)
    apart = distance.cc - distance.tc - distance.tc.T + distance.tt
    way = erase * float((s * apart).sum())
    kept = first.unit * retained
    across = None
    if derived.rows is not None:  # U is e (T − C)ᵀ, whatever p is
        c, t = derived.rows
        across = _across(erase * (t - c).T, congruent)

    def drift(weight: float) -> float:
        edit = derived.edit(retained, erase=erase, preserve=weight * first.unit, ridge=first.ridge)
        moved = (_across(edit.u, congruent) if across is None else across) * _across(edit.v, kept)
        return (max(0.0, float(moved.sum())) / way) ** 0.5 if way else 0.0

    weight = weight_within(drift) if retained.any() else 0.0
    return first._replace(preserve=weight * first.unit, found=None)


def _across(factor: Tensor, matrix: Tensor) -> Tensor:
    """FᵀAF (rank rank) of F (width rank) and A (width width)."""
    return factor.T @ matrix @ factor


def stored_balance(config: Mapping[str, Any], pairs: RowPairs, retained: Tensor) -> Balance:
    """The weights of one more edit, of a single concept, by the configuration in an erasure's header."""
    weight = config["preserve_weight"]
    if config.get("moments", "sum") == "sum":  # also files from before moments were averaged
        return Balance(preserve=weight, ridge=config["ridge"], unit=1.0, found=None)
    unit = _unit(pairs, retained, config["erase_weight"])
    return Balance(preserve=weight * unit, ridge=config["ridge"], unit=unit, found=None)


def _unit(pairs: RowPairs, retained: Tensor, erase: float) -> float:
    """The weight at which the retained rows have the energy of the concepts' rows."""
    energy = float(retained.trace())
    return erase * float(pairs.cc.trace()) / energy if energy else 1.0
