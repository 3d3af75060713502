"""The weights of a model before any edit; they lie beside the network whose weights they are, and are copied with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from efface.models.model import Model

KEY = "_efface_originals"
"""Name of the attribute of a network."""


def originals_in(network: nn.Module) -> dict[str, Tensor]:
    """Path of a tensor in a network -> its values before any edit, on the CPU, of those that are edited now."""
    return vars(network).setdefault(KEY, {})


def originals_of(model: Model) -> dict[str, Tensor]:
    """Full tensor name -> values before any edit, on the CPU, of all networks of a model."""
    return {
        f"{component}.{path}": tensor
        for component, network in model.components().items()
        for path, tensor in vars(network).get(KEY, {}).items()
    }
