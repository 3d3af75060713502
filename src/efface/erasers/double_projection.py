"""Double projections: a concept's last token goes to its safe part, outside what is retained (CVPR 2026, arXiv 2604.10032)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import RetainingRows, Rows
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(RetainingRows):
    """Options of double projections; `project` is its generalisation to many rows, led to an anchor."""

    rows: Rows = "last"
    """Which token positions are edited."""
    keep_rows: Rows = "last"
    """Which positions of the retained prompts count."""
    share: float = 0.99
    """Share of the retained rows' energy that stays exactly and spans what is safe: the paper's rank k, found by energy."""
    tolerance: float = 1e-3
    """Singular values of the concepts' rows outside that span, below this share of the largest, count as 0."""

    def __post_init__(self) -> None:
        for name in ("share", "tolerance"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected a number above 0 and at most 1.")


PUBLISHED: Mapping[str, Any] = {}
"""The defaults are its only settings."""
EXTENDS = "textmap"
"""Kind of the erasures that hardening can add to."""
TEXT_ONLY = True
"""It reads nothing of a model but its text encoders and the matrices that read text."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase concepts with M = I + (C* − C)ᵀ (P Cᵀ)⁺, C* = C (I − P): of one row c the paper's W (c* − c) xᵀ / |x|² · U₂ᵀ.

    P projects off the span of what is retained. No anchor enters: what takes the concept's place is its own projection onto
    that span. `judge` is not used.

    Raises:
        EffaceError: nothing is retained, so that nothing is safe.
    """
    from efface.closed_form.nullspace import exact_outside, free_space, gather_rows, own_inside, retained_drift
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap

    keep = config.keep or ()
    if not keep:
        raise EffaceError(
            "double projections lead a concept to what is retained, and nothing is: name prompts to keep."
        )
    pairs, retained = gather_rows(model, concepts, config.rows, keep, config.keep_rows)
    free = free_space(retained, config.share)
    map_ = exact_outside(own_inside(pairs, free.projector), free.projector, config.tolerance)
    notes = {"free_dimensions": free.dimensions, "retained_moved": retained_drift(map_, retained)}
    origin = provenance(model, "double-projection", asdict(config), concepts, keep, **notes)
    return TextMap.of(origin, map_.u, map_.v)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with one more edit outside the retained span, of the states that attacks found."""
    from efface.closed_form.extend import compose_before, evidence_rows, retained_gram
    from efface.closed_form.nullspace import exact_outside, free_space, own_inside

    config = erasure.provenance.config
    pairs = evidence_rows(model, evidence.concept, evidence.text, evidence.anchors, config["rows"])
    free = free_space(retained_gram(model, erasure.provenance), config["share"]).projector
    return compose_before(erasure, exact_outside(own_inside(pairs, free), free, config["tolerance"]))
