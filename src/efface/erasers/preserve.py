"""Preserve: the ridge edit worked outside the span of what is retained, which stays exactly (after ACE, arXiv 2503.08116)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import RetainingRows, Rows
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
    """Share of the retained rows' energy that is kept exactly; the rest of their span is given up, since many prompts
    together span everything."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"share is {self.share}; expected a number above 0 and at most 1.")
        if not 0 <= self.ridge < float("inf"):
            raise UsageError(f"ridge is {self.ridge}; expected a finite number of at least 0.")


PUBLISHED: Mapping[str, Any] = {}
"""The defaults are its only settings."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase concepts with M = I + (T − C)ᵀ C P (λ I + P CᵀC P)⁻¹ P; `judge` is not used."""
    from efface.closed_form.nullspace import gather_rows, moved, outside, ridge_outside
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap

    keep = config.keep or ()
    pairs, retained = gather_rows(model, concepts, config.rows, keep, config.keep_rows)
    free = outside(retained, config.share)
    map_ = ridge_outside(pairs, free.projector, config.ridge)
    notes = {"free_dimensions": free.dimensions, "retained_moved": moved(map_, retained)}
    return TextMap.of(provenance(model, "preserve", asdict(config), concepts, keep, **notes), *map_)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """One more edit outside the retained span, of what attacks found."""
    from efface.closed_form.extend import ahead, evidence_rows, retained_gram
    from efface.closed_form.nullspace import outside, ridge_outside

    config = erasure.provenance.config
    pairs = evidence_rows(model, evidence.concept, evidence.text, evidence.anchors, config.get("rows", "all"))
    free = outside(retained_gram(model, erasure.provenance), config["share"]).projector
    return ahead(erasure, ridge_outside(pairs, free, config["ridge"]))
