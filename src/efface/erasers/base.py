"""What the erasers share: the concepts they speak of, retained prompts, and how a result becomes an erasure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from efface.closed_form.ridge import Factors
from efface.concepts.concept import Concept
from efface.erasures import Provenance, TextMap, WeightDelta
from efface.errors import EffaceError
from efface.models import fingerprint
from efface.models.model import Model


def text_width(model: Model) -> int:
    """Width of the text states."""
    return model.text_projections()[0].module.weight.shape[1]


def spoken(concepts: Sequence[Concept], aliases: bool) -> list[Concept]:
    """The concepts, and with `aliases` one more for every other name of each."""
    extra = [replace(c, name=alias, aliases=()) for c in concepts for alias in c.aliases] if aliases else []
    return [*concepts, *extra]


def provenance(
    model: Model, method: str, config: dict[str, Any], concepts: Sequence[Concept], keep: Sequence[str], **notes: Any
) -> Provenance:
    """Where an erasure comes from."""
    return Provenance(method, config, tuple(concepts), fingerprint(model), tuple(keep), notes)


def text_map(origin: Provenance, map_: Factors) -> TextMap:
    """A TextMap in float32, so that what is saved is what was attached."""
    return TextMap(origin, *(_checked(part) for part in map_))


def weight_delta(origin: Any, deltas: dict[str, Tensor]) -> WeightDelta:
    """A WeightDelta in float32."""
    return WeightDelta(origin, {name: _checked(values) for name, values in deltas.items()})


def _checked(values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise EffaceError("the edit gives values that are not finite: nothing was erased; use a larger ridge weight.")
    return values.float().contiguous()
