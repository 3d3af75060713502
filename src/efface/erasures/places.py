"""Where a weight lies: in its layer, in an offloading store, and in the copies that fused projections make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.storage import Storage, disk_group_at, read_parameter, storage_of
from efface.models.unchanged import place_in_memory

FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""Names that diffusers gives to fused projections, and what it concatenates in them."""


class Place(NamedTuple):
    """One tensor that holds a weight, or some rows of it."""

    module: nn.Module
    """The layer."""
    name: str
    """Its parameter."""
    rows: slice | None = None
    """Which rows hold the weight; None where all do."""
    group: Any = None
    """What keeps it in a file while it is not needed (`efface.families.storage.disk_group`)."""

    @property
    def storage(self) -> Storage:
        """How the values are kept."""
        return storage_of(self.module, self.name, self.group)

    def read(self) -> Tensor:
        """The values, sharing their memory."""
        values = read_parameter(self.module, self.name)
        return values if self.rows is None else values[self.rows]

    def write(self, values: Tensor) -> None:
        """Overwrite the values, in their own dtype and on their own device."""
        parameter = getattr(self.module, self.name)
        with torch.inference_mode(parameter.is_inference()), torch.no_grad():
            self.read().copy_(values)

    def is_readable(self) -> bool:
        """Whether the values are there to be read; group offloading to disk leaves nothing behind."""
        return self.group is None and not self.storage.packed and not self.read().is_meta

    def memory(self) -> tuple[int, ...]:
        """Something that differs after the tensor was replaced, moved, or written to by torch."""
        parameter = getattr(self.module, self.name)
        return id(parameter), *place_in_memory(parameter)

    def require_writable(self, name: str) -> None:
        """Raise EffaceError where what is written would not stay: the weight lies on disk, or nowhere."""
        is_meta = getattr(self.module, self.name).is_meta
        if not is_meta and self.group is None:
            return
        # A store in memory gives the same tensor each time, one on disk another copy.
        first, second = self.read(), self.read()
        if is_meta and not first.is_meta and first.data_ptr() == second.data_ptr():
            return
        raise EffaceError(
            f"{name} is offloaded to disk and cannot be edited in place: end the offloading first, or load the model anew."
        )


def layer_of(network: nn.Module, path: str) -> tuple[nn.Module, str] | None:
    """The layer and parameter at a path, inside an adapter's wrapper where there is one; None where there is none."""
    owner, _, name = path.rpartition(".")
    module: Any = network
    for step in owner.split(".") if owner else ():
        module = getattr(getattr(module, "base_layer", module), step, None)
        if not isinstance(module, nn.Module):
            return None
    module = getattr(module, "base_layer", module)
    return (module, name) if isinstance(module._parameters.get(name), Tensor) else None


def places_of(network: nn.Module, path: str) -> Iterator[Place]:
    """Every place that holds the weight at a path of a network; none where the layer is gone."""
    layer = layer_of(network, path)
    if layer is None:
        return
    owner, _, name = path.rpartition(".")
    group = disk_group_at(network, owner)
    yield Place(*layer, group=group)
    block, _, own = owner.rpartition(".")
    parent = network.get_submodule(block)
    for fused, parts in FUSED.items():
        if own in parts and isinstance(getattr(parent, fused, None), nn.Module):
            heights = [_height(network, f"{block}.{part}.{name}".lstrip(".")) for part in parts]
            start = sum(heights[: parts.index(own)])
            whole = getattr(parent, fused)
            if isinstance(whole._parameters.get(name), Tensor) and len(whole._parameters[name]) == sum(heights):
                yield Place(whole, name, slice(start, start + heights[parts.index(own)]), group)


def _height(network: nn.Module, path: str) -> int:
    layer = layer_of(network, path)
    return 0 if layer is None else len(getattr(*layer))
