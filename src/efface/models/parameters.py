"""The parameters of a model by their full names."""

from __future__ import annotations

from torch import Tensor

from efface.models.model import Model


def parameters_of(model: Model) -> dict[str, Tensor]:
    """Every parameter by its full name, adapters' wrappers left out of the names."""
    return {
        f"{component}.{name.replace('.base_layer', '')}": parameter
        for component, module in model.components().items()
        for name, parameter in module.named_parameters()
    }
