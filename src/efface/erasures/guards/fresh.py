"""Whether text encoders are as they were when a guard encoded its texts: weights may be written, and adapters loaded, meanwhile."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from efface.models.caller import picture_at_work
from efface.models.model import Model


class Fresh:
    """Asks once for every picture."""

    def __init__(self) -> None:
        self.picture: object = None
        self.state: Hashable = None

    def has_changed(self, model: Model) -> bool:
        """Whether something changed since it was asked last; the first time, nothing has."""
        picture = picture_at_work()
        if picture is not None and picture is self.picture:
            return False
        self.picture = picture
        before, self.state = self.state, state_of_encoders(model) or self.state
        return before is not None and before != self.state


def state_of_encoders(model: Model) -> Hashable:
    """What tells text encoders from themselves at another time, on whatever device: the names of their weights, how often each was
    written, one value of each, and how adapters are set. None where the pipeline has none."""
    names: list[Hashable] = []
    values: list[torch.Tensor] = []
    for component, encoder in model.family.text_encoders().items():
        for name, weight in encoder.named_parameters():
            names.append((component, name, weight._version))
            if not weight.is_meta and weight.numel():
                values.append(weight.detach().flatten()[weight.numel() // 2].float())
        for module in encoder.modules():
            names.append(_adapters_of(module))
    if not names:
        return None
    return tuple(names), tuple(torch.stack(values).tolist()) if values else ()


def _adapters_of(module: Any) -> Hashable:
    """How the adapters of a module of peft are set; None for any other."""
    scaling = getattr(module, "scaling", None)
    if not isinstance(scaling, dict):
        return None
    return str(scaling), str(getattr(module, "active_adapters", None)), bool(getattr(module, "disable_adapters", False))
