"""Extend a text map by one more edit, of the states that attacks found."""

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


def evidence_rows(model: Model, concept: Concept, text: Text, anchors: Sequence[str], rule: RowRule) -> RowPairs:
    """Rows of the states that attacks found, paired with those of their anchors; and the concept's own rows; reduced to
    their products. Arguments as of `evidence_pairs`."""
    return RowPairs.gather(evidence_pairs(model, concept, text, anchors, rule))


def evidence_pairs(
    model: Model, concept: Concept, text: Text, anchors: Sequence[str], rule: RowRule
) -> list[tuple[Tensor, Tensor]]:
    """Rows of the states that attacks found, paired with those of their anchors; and the concept's own rows.

    Args:
        model: the unerased model.
        concept: the concept that came back; the new edit acts before the old one and so on the concept's rows too.
        text: states that attacks found (batch tokens width).
        anchors: anchor prompt of each.
        rule: positions of the concept's own rows; found states are paired at every position after the begin token, which
            all prompts share.
    """
    states = model.projection_inputs(text)
    targets = model.projection_inputs(model.encode_in_float32(anchors))
    pairs = [(c[1:].detach(), t[1:]) for c, t in zip(states, targets, strict=True)]
    return [*pairs, concept_rows(model, concept, rule)]


def retained_gram(model: Model, origin: Provenance) -> Tensor:
    """RᵀR (width width) of the prompts that an erasure retains."""
    return gram_of(retained_rows(model, origin.keep, origin.config.get("keep_rows", "all")), text_width(model))


def compose_before(erasure: Erasure, edit: LowRankMap, pooled: LowRankMap | None = None) -> TextMap:
    """A text map with one more edit, which acts on the text before it, and one of its pooled text where there is one.

    Raises:
        UsageError: the erasure is not a text map.
    """
    if not isinstance(erasure, TextMap):
        raise UsageError(f"an erasure of kind {erasure.kind!r} cannot be hardened; expected a text map.")
    map_ = LowRankMap(erasure.u.double(), erasure.v.double()).then(edit)
    return TextMap.of(erasure.provenance, map_.u, map_.v, _pooled_before(erasure, pooled))


def _pooled_before(erasure: TextMap, edit: LowRankMap | None) -> LowRankMap | None:
    """The map of pooled text with one more edit."""
    if erasure.pooled_u is None or erasure.pooled_v is None:
        return edit
    map_ = LowRankMap(erasure.pooled_u.double(), erasure.pooled_v.double())
    return map_ if edit is None else map_.then(edit)
