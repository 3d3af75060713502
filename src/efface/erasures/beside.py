"""Low-rank factors beside a layer: what a weight delta adds to its output, without a weight that changes."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.layers import low_rank
from efface.families.networks import Hook
from efface.families.storage import shape_of
from efface.models.precision import without_autocast


def hooks_beside(components: dict[str, Any], name: str, up: Tensor, down: Tensor, scale: float) -> list[Hook]:
    """The hooks that add s B A x to what the layer of a weight gives.

    Args:
        components: name -> network.
        name: of the weight, with its component.
        up: B (out rank).
        down: A (rank in), of a convolution its kernel flattened.
        scale: s.

    Raises:
        EffaceError: the model has no such layer, or it is none whose output factors can be added to.
    """
    layer = layer_beside(components, name, up, down)
    is_plain = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    if not name.endswith(".weight") or not is_plain or layer.__dict__.get("padding_mode", "zeros") != "zeros":
        raise EffaceError(
            f"{name} is of a {type(layer).__name__}, beside which no factors can be added for single rows: leave the erasure out of "
            "the policies."
        )
    component, _, path = name.removesuffix(".weight").partition(".")
    block = components[component].get_submodule(path.rpartition(".")[0])
    whole = Hook(components[component], _Whole(block, name), before=True)
    return [whole, Hook(layer, _Beside(up, down, scale), before=False)]


def layer_beside(components: dict[str, Any], name: str, up: Tensor, down: Tensor) -> Any:
    """The layer that a weight is of.

    Raises:
        EffaceError: the model has none, or one of another shape.
    """
    component, _, path = name.removesuffix(".weight").partition(".")
    try:
        module: Any = components[component].get_submodule(path)
    except (KeyError, AttributeError):
        module = None
    layer = getattr(module, "base_layer", module)
    shape = () if layer is None else shape_of(layer, "weight")
    if shape[:1] != (len(up),) or prod(shape[1:]) != down.shape[1]:
        raise EffaceError(
            f"the model has no layer of the weight {name} as the erasure edits it: was it made for another model?"
        )
    return layer


class _Whole:
    """A hook that stops a call in which a layer would be passed by, its projections being fused."""

    def __init__(self, block: nn.Module, name: str):
        self.block = block
        self.name = name

    def __call__(self, module: Any, args: Any, kwargs: Any) -> None:
        if vars(self.block).get("fused_projections", False):
            raise EffaceError(
                f"the projections around {self.name} are fused, so that an erasure beside it would be passed by: call "
                "`unfuse_qkv_projections()` first."
            )


class _Beside:
    """A hook that adds s B A x to the output of a layer."""

    def __init__(self, up: Tensor, down: Tensor, scale: float):
        self.up = up
        self.down = down
        self.scale = scale

    def __call__(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        inputs = args[0] if args else kwargs["input"]
        kind = torch.promote_types(inputs.dtype, torch.float32)
        with without_autocast(output.device):
            up, down = self.up.to(output.device, kind), self.down.to(output.device, kind)
            return output + (self.scale * low_rank(module, inputs, down, up)).to(output.dtype)
