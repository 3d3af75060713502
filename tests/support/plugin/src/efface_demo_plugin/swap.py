"""Swap: a concept's text states become its anchor's, as nearly as one ridge regression can say it."""

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
    """Options of the swap."""

    rows: Rows = "subject"
    """Which token positions are edited."""
    ridge: float = 0.2
    """Weight of leaving all other states as they are."""

    def __post_init__(self) -> None:
        if self.ridge <= 0:
            raise UsageError(f"ridge is {self.ridge}; expected a number above 0.")


PUBLISHED: Mapping[str, Any] = {"rows": "all"}
"""What `--as-published` changes."""
EXTENDS = "textmap"
"""Kind of the erasures that hardening can add to."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase concepts with one ridge edit; `judge` is not used."""
    from efface.closed_form.ridge import RowPairs, gram_of
    from efface.closed_form.rows import concept_rows, retained_rows, text_width
    from efface.erasures import TextMap
    from efface.erasures.provenance import provenance

    keep = config.keep or ()
    retained = gram_of(retained_rows(model, keep, config.keep_rows), text_width(model))
    pairs = RowPairs.gather(concept_rows(model, concept, config.rows) for concept in concepts)
    edit = pairs.edit(retained, erase=1.0, preserve=1.0, ridge=config.ridge)
    return TextMap.of(provenance(model, "swap", asdict(config), concepts, keep), *edit)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """One more edit, of what attacks found."""
    from efface.closed_form.extend import compose_before, evidence_rows, retained_gram

    config = erasure.provenance.config
    pairs = evidence_rows(model, evidence.concept, evidence.text, evidence.anchors, config["rows"])
    edit = pairs.edit(retained_gram(model, erasure.provenance), erase=1.0, preserve=1.0, ridge=config["ridge"])
    return compose_before(erasure, edit)
