"""The weights that an erasure changes in a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from efface.erasures import Erasure
from efface.errors import EffaceError
from efface.families.layers import read_parameter
from efface.models.model import Model
from efface.models.parameters import parameters_of


class Target(NamedTuple):
    """A weight that an erasure changes."""

    name: str
    """Full tensor name, for example `unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight`."""
    weight: Tensor
    """The weight as the model has it."""


def targets_of(erasure: Erasure, model: Model) -> Iterator[Target]:
    """The weights that an erasure changes, in order of name.

    Raises:
        EffaceError: the model has none of that name.
    """
    named = erasure.targets()
    if named is None:
        for projection in model.text_projections():
            yield Target(f"{projection.name}.weight", read_parameter(projection.module, "weight"))
        return
    parameters = parameters_of(model)
    for name in named:
        if name not in parameters:
            raise EffaceError(
                f"the model has no weight called {name}, which the erasure edits: was it made for another model?"
            )
        yield Target(name, parameters[name].detach())


def provenance_note(erasure: Erasure, scale: float) -> dict[str, str]:
    """Metadata of a safetensors file: what was erased and how."""
    note: dict[str, Any] = erasure.provenance.to_json() | {"kind": erasure.kind, "scale": scale}
    note["base"] = {name: note["base"][name] for name in ("family", "width", "structure")}
    return {"format": "pt", "efface": json.dumps(note)}
