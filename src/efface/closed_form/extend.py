"""One more edit of a text map, from what attacks found."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from efface.closed_form.maps import LowRankMap
from efface.closed_form.ridge import RowPairs, gram_of
from efface.closed_form.rows import RowRule, concept_rows, retained_rows, text_width
from efface.concepts.concept import Concept
from efface.erasures import Erasure, Provenance, TextMap
from efface.errors import UsageError
from efface.models.model import Model, Text


def evidence_rows(model: Model, concept: Concept, found: Text, anchors: Sequence[str], rule: RowRule) -> RowPairs:
    """States of what was found, and of the prompts that take the concept's place, position by position after the begin
    token (where every prompt is alike); and the concept's own rows, which the new edit reads first too."""
    states, wanted = model.projection_inputs(found), model.projection_inputs(model.encode(anchors))
    pairs = [(c[1:].detach(), t[1:]) for c, t in zip(states, wanted, strict=True)]
    return RowPairs.gather([*pairs, concept_rows(model, concept, rule)])


def retained_gram(model: Model, origin: Provenance) -> Tensor:
    """RᵀR (width width) of the prompts that an erasure retains."""
    return gram_of(retained_rows(model, origin.keep, origin.config.get("keep_rows", "all")), text_width(model))


def ahead(erasure: Erasure, edit: LowRankMap) -> TextMap:
    """The erasure with one more edit that acts on the text first.

    Raises:
        UsageError: it is no text map.
    """
    if not isinstance(erasure, TextMap):
        raise UsageError(f"an erasure of kind {erasure.kind!r} cannot be hardened; expected a text map.")
    return TextMap.of(erasure.provenance, *LowRankMap(erasure.u.double(), erasure.v.double()).then(edit))
