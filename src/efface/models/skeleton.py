"""A network of which only names, shapes and places in files are known: enough to find its matrices and to fingerprint it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface.families.layers import leave_in_file
from efface.io.stored import Stored


class Config(dict[str, Any]):
    """A configuration whose entries are also attributes, as diffusers has it."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"the configuration has no {name}")
        return self[name]


class Skeleton(nn.Module):
    """The modules and parameters of a network, on the meta device.

    Args:
        stands_for: name of the class of the network.
        config: its configuration.
        tensors: name of each parameter -> where it lies.
    """

    def __init__(self, stands_for: str, config: Mapping[str, Any], tensors: Mapping[str, Stored]):
        super().__init__()
        self.stands_for = stands_for
        self.config = Config(config)
        matrices = {name.rpartition(".")[0] for name, tensor in tensors.items() if _is_matrix(name, tensor)}
        with torch.device("meta"):
            for name, stored in tensors.items():
                path, _, parameter = name.rpartition(".")
                module = _grow(self, path, matrices)
                module.register_parameter(parameter, _empty(stored))
                if _is_matrix(name, stored):
                    module.out_features, module.in_features = stored.shape  # type: ignore[assignment]
        leave_in_file(self, tensors)

    def forward(self, *args: Any, **options: Any) -> Tensor:
        """Refused: nothing of the network is in memory."""
        raise RuntimeError(
            f"only names of this {self.stands_for} were loaded, which cannot compute: load the model whole"
        )


def _is_matrix(name: str, stored: Stored) -> bool:
    return name.endswith(".weight") and len(stored.shape) == 2


def _empty(stored: Stored) -> nn.Parameter:
    """A parameter on the meta device; in float32, as which it will be read."""
    return nn.Parameter(torch.empty(stored.shape), requires_grad=False)


def _grow(root: nn.Module, path: str, matrices: set[str]) -> nn.Module:
    """The submodule at a path, made with all above it where they are missing; a linear layer where it has a matrix."""
    module = root
    so_far = ""
    for part in filter(None, path.split(".")):
        so_far = f"{so_far}.{part}".lstrip(".")
        if part not in module._modules:
            module.add_module(part, nn.Linear(1, 1, bias=False) if so_far in matrices else nn.Module())
        module = module.get_submodule(part)
    return module
