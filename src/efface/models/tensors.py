"""The tensors of a model by name, in one spelling, and samples of their values, wherever and however they are kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.models.spelling import spell

if TYPE_CHECKING:  # a file is shown without torch
    from torch import Tensor, nn

    from efface.families.storage import Storage

SAMPLE = 4096
"""Weights of each tensor that are looked at, evenly spaced."""
_BESIDE = re.compile(r"lora_|\.to_q?kv$|\.to_added_qkv$|\.processor(\.|$)|^encoder_hid_proj|^image_proj")
"""Paths of adapters, fused projections and IP-Adapters, which come and go without changing the model."""


class Sample(NamedTuple):
    """Evenly spaced values of a tensor."""

    values: Tensor
    """At most SAMPLE (values)."""
    coarse: bool
    """Whether few bits hold them."""


class ModelTensor(NamedTuple):
    """A tensor of a model, which may be in memory, offloaded, quantised, or still in its file."""

    name: str
    """Its full name, spelt in one way whatever the version of transformers."""
    own_name: str
    """Its full name as the model itself spells it."""
    module: nn.Module
    """The module that has it."""
    parameter: str
    """Its name there."""
    group: Any
    """What keeps it in a file while it is not needed (`efface.families.storage.disk_group`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its values, however they are packed."""
        from efface.families.storage import shape_of

        return shape_of(self.module, self.parameter)

    @property
    def storage(self) -> Storage:
        """How its values are kept."""
        from efface.families.storage import storage_of

        return storage_of(self.module, self.parameter, self.group)

    @property
    def is_table(self) -> bool:
        """Whether it is a table of embeddings, which grows with a vocabulary."""
        from torch import nn

        return isinstance(self.module, nn.Embedding)

    def sample(self, originals: Mapping[str, Tensor]) -> Sample | None:
        """Some of its values; None where they cannot be read.

        Args:
            originals: full name -> values before any edit, of those tensors that are edited now.
        """
        from efface.families.storage import sample_parameter

        step = max(1, prod(self.shape) // SAMPLE)
        original = originals.get(self.own_name)
        if original is not None:
            return Sample(original.flatten()[::step][:SAMPLE], coarse=False)
        values = sample_parameter(self.module, self.parameter, step, SAMPLE, self.group)
        return None if values is None else Sample(values, self.storage.coarse)


def tensors_of(components: Mapping[str, nn.Module], *, old: bool = False) -> Iterator[ModelTensor]:
    """Every parameter of a model itself, without adapters and fused copies of projections.

    Args:
        components: networks by component name.
        old: with the names that transformers before 5.6 gives a text encoder's tensors.
    """
    for component, network in components.items():
        found = dict(_parameters_of(network))
        for own, name in zip(found, spell(list(found), old=old), strict=True):
            module, parameter, group = found[own]
            yield ModelTensor(
                name=f"{component}.{name}",
                own_name=f"{component}.{own}",
                module=module,
                parameter=parameter,
                group=group,
            )


def _parameters_of(network: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str, Any]]]:
    """Path of every parameter, an adapter's wrapper left out of it -> the module that has it, its name there, its group."""
    from torch import nn

    from efface.families.storage import disk_group

    wrappers: set[str] = set()
    groups: dict[str, Any] = {}
    for path, module in network.named_modules():
        parent, _, name = path.rpartition(".")
        groups[path] = disk_group(module) or groups.get(parent)
        # What a wrapper has beside the layer in it belongs to the adapter.
        if (parent in wrappers and name != "base_layer") or hasattr(module, "base_layer"):
            wrappers.add(path)
        elif not _BESIDE.search(path):
            place = path.replace(".base_layer", "")
            names = [parameter for parameter, value in module._parameters.items() if value is not None]
            if "weight" not in names and hasattr(module, "in_features") and not isinstance(module, nn.Linear):
                names.append("weight")  # a quantised layer of another kind, which keeps it elsewhere
            for parameter in names:
                yield f"{place}.{parameter}".lstrip("."), (module, parameter, groups[path])


@cache
def signs() -> Tensor:
    """Fixed random signs (SAMPLE,) in float64, the same for ever: the bits of SHAKE-256, lowest first."""
    import torch

    stream = hashlib.shake_256(b"efface").digest(SAMPLE // 8)
    bits = [byte >> i & 1 for byte in stream for i in range(8)]
    return 2 * torch.tensor(bits, dtype=torch.float64, device="cpu") - 1
