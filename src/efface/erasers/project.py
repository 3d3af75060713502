"""Project: a singular map that takes the concept's states to its anchor's exactly and keeps the retained span exactly."""

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
    """Options of the exact edit."""

    rows: Rows = "subject"
    """Which token positions are edited."""
    share: float = 0.9
    """Share of the retained rows' energy that stays exactly."""
    tolerance: float = 0.05
    """Singular values of the concept's rows outside that span, below this share of the largest, count as 0: exactness
    in directions of almost no energy would need an arbitrarily large map."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"share is {self.share}; expected a number above 0 and at most 1.")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance is {self.tolerance}; expected a number between 0 and 1.")


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
    """Erase concepts with M = I + (T − C)ᵀ (P Cᵀ)⁺, the target retained_drift into the span that is kept; `judge` is not used.

    With t in that span M (c − t) = 0: the map is singular, and no state of whatever norm gives the concept's own keys and
    values back (`efface.closed_form.certificate`).
    """
    from efface.closed_form.nullspace import exact_outside, free_space, gather_rows, retained_drift, targets_inside
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap

    keep = config.keep or ()
    pairs, retained = gather_rows(model, concepts, config.rows, keep, config.keep_rows)
    free = free_space(retained, config.share)
    inside = targets_inside(pairs, free.projector)
    map_ = exact_outside(inside, free.projector, config.tolerance)
    notes = {"free_dimensions": free.dimensions, "retained_moved": retained_drift(map_, retained)}
    origin = provenance(model, "project", asdict(config), concepts, keep, **notes)
    return TextMap.of(origin, map_.u, map_.v)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with one more exact edit outside the retained span, of the states that attacks found."""
    from efface.closed_form.extend import compose_before, evidence_rows, retained_gram
    from efface.closed_form.nullspace import exact_outside, free_space, targets_inside

    config = erasure.provenance.config
    pairs = evidence_rows(model, evidence.concept, evidence.text, evidence.anchors, config.get("rows", "all"))
    free = free_space(retained_gram(model, erasure.provenance), config["share"]).projector
    return compose_before(erasure, exact_outside(targets_inside(pairs, free), free, config["tolerance"]))
