"""A map of the pooled text beside a map of the text states that another method made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from efface.closed_form.pooled import block_of_vectors, pooled_gram
from efface.closed_form.retention import ROOM, span_of, unit_gram
from efface.closed_form.rows import with_aliases
from efface.closed_form.system import Retention, Rows, joint_map
from efface.closed_form.weight import weight_for
from efface.concepts.concept import default_anchor
from efface.erasures import Erasure, TextMap
from efface.models.model import Model, Text
from efface.models.precision import on_cpu

RIDGE = 1e-3
"""λ, in units of the mean eigenvalue of the retained moment."""


class RememberingModel(Model):
    """A model that keeps the pooled text of every prompt that it encodes, so that none is encoded twice."""

    def __init__(self, pipeline: Any):
        super().__init__(pipeline)
        self.pooled: dict[str, Tensor] = {}

    def encode(self, prompts: Sequence[str], *, batch: int = 64) -> Text:
        """As of `Model`."""
        text = super().encode(prompts, batch=batch)
        if text.pooled is not None:
            self.pooled |= dict(zip(prompts, text.pooled.detach().cpu(), strict=True))
        return text

    def pooled_text(self, prompts: Sequence[str]) -> Tensor:
        """Pooled text of prompts (prompts width), in float64."""
        missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self.pooled))
        if missing:
            self.encode_in_float32(missing)
        return on_cpu(torch.stack([self.pooled[prompt] for prompt in prompts]))


def with_pooled_map(model: RememberingModel, erasure: Erasure) -> Erasure:
    """A text map with one of the pooled text: the map (★) that leads the concepts' prompts to their anchors', beside what the
    erasure retains, with a found weight; the empty prompt stays exactly. Any other erasure is given back as it is.

    Args:
        model: that the erasure was made with.
        erasure: as the method made it.
    """
    if not isinstance(erasure, TextMap) or erasure.maps_pooled or not model.family.pooled_projections():
        return erasure
    origin = erasure.provenance
    concepts = with_aliases(origin.concepts, bool(origin.config.get("aliases")))
    blocks = [
        block_of_vectors(model.pooled_text(c.prompts()), model.pooled_text(c.anchors(default_anchor(c))))
        for c in concepts
    ]
    rows = Rows.stack(blocks)
    width = rows.c.shape[1]
    gram = unit_gram([model.pooled_text(origin.keep)] if origin.keep else [], width)
    hard = span_of(model.pooled_text([""]), max(1, width // ROOM))
    retention = Retention(gram=gram, ridge=RIDGE / width, hard=hard)
    erase = 1 / rows.concepts
    found = weight_for(rows, retention, pooled_gram(model, width), erase=erase)
    map_ = joint_map(rows, retention, erase=erase, weight=found.weight)
    origin = replace(origin, notes=origin.notes | {"pooled": found.notes()})
    return TextMap.of(origin, erasure.u, erasure.v, map_)
