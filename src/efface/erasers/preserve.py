"""Preserve: a ridge edit outside the span of retained rows, which stay exactly as they are (after ACE, arXiv 2503.08116)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import RetainingRows, Rows, check_ridges
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(RetainingRows):
    """Options of the null-space edit."""

    rows: Rows = "subject"
    """Which token positions are edited."""
    ridge: float = 0.1
    """λ, weight of leaving the concept's own states as they are."""
    share: float = 0.9
    """Share of the retained rows' energy that stays exactly; the rest is not retained, since many prompts together span the
    whole width."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"share is {self.share}; expected a number above 0 and at most 1.")
        check_ridges(self, "ridge")


PUBLISHED: Mapping[str, Any] = {}
"""The defaults are its only settings."""
EXTENDS = "textmap"
"""Kind of the erasures that hardening can add to."""
TEXT_ONLY = True
"""Without a judge nothing is read but text encoders and the matrices that read text."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """None are drawn."""
    return 0


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase concepts with M = I + (T − C)ᵀ C P (λ I + P CᵀC P)⁻¹ P; `judge` is not used."""
    from efface.closed_form.nullspace import free_space, gather_rows, retained_drift, ridge_outside
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap

    keep = config.keep or ()
    pairs, retained = gather_rows(model, concepts, config.rows, keep, config.keep_rows)
    free = free_space(retained, config.share)
    map_ = ridge_outside(pairs, free.projector, config.ridge)
    notes = {"free_dimensions": free.dimensions, "retained_moved": retained_drift(map_, retained)}
    origin = provenance(model, "preserve", asdict(config), concepts, keep, **notes)
    return TextMap.of(origin, map_.u, map_.v)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with one more edit outside the retained span, of the states that attacks found."""
    from efface.closed_form.extend import compose_before, evidence_rows, retained_gram
    from efface.closed_form.nullspace import free_space, ridge_outside

    config = erasure.provenance.config
    pairs = evidence_rows(model, evidence.concept, evidence.text, evidence.anchors, config.get("rows", "all"))
    free = free_space(retained_gram(model, erasure.provenance), config["share"]).projector
    return compose_before(erasure, ridge_outside(pairs, free, config["ridge"]))
