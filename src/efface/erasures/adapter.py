"""Adapter: small networks behind some layers of the denoiser, which add to what the layers give (Receler)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from efface.erasures.checks import ADAPTER_PARTS, check_adapter
from efface.erasures.erasure import Erasure
from efface.erasures.provenance import Provenance
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.families.sites import Site
from efface.models.model import Model
from efface.models.precision import finite_float32, without_autocast


class Bottleneck(NamedTuple):
    """U gelu(D y + d) + u of a layer's output y."""

    down: Tensor
    """D (inner width)."""
    down_bias: Tensor
    """d (inner,)."""
    up: Tensor
    """U (width inner)."""
    up_bias: Tensor
    """u (width,)."""

    def of(self, states: Tensor) -> Tensor:
        """What is added to states (… width), in float32."""
        return F.linear(F.gelu(F.linear(states.float(), self.down, self.down_bias)), self.up, self.up_bias)

    def to(self, like: Tensor) -> Bottleneck:
        """The same on the device of another tensor."""
        return Bottleneck(**{name: part.to(like.device) for name, part in self._asdict().items()})


@dataclass(frozen=True, eq=False)
class Adapter(Erasure):
    """The output y of some layers becomes y + s (U gelu(D y + d) + u); s is the scale it is attached with.

    No weight holds that, so that it is neither folded nor exported. Of several, a later one reads what an earlier one gave.
    """

    layers: dict[str, Bottleneck]
    """Name of a module, with its component -> the network behind it."""

    kind = "adapter"
    acts_on = "activations"

    def touches(self) -> list[str]:
        """The modules whose outputs it adds to."""
        return list(self.layers)

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """The network behind every layer."""
        denoiser = model.networks()[0]
        hooks = []
        for name, layer in self.layers.items():
            module = _module(denoiser.module, name.removeprefix(f"{denoiser.name}."))
            if module is None:
                raise EffaceError(
                    f"the model has no module called {name}, which the erasure edits: was it made for another model?"
                )
            hooks.append(Hook(module, _Beside(layer, scale), before=False))
        return hooks

    def changes_by_row(self, model: Model, scale: float) -> list[Hook]:
        """The same: a picture is changed by itself."""
        return self.changes(model, scale)

    def tensors(self) -> dict[str, Tensor]:
        """Every part of every network, as `LAYER|PART`."""
        return {f"{name}|{part}": t for name, layer in self.layers.items() for part, t in layer._asdict().items()}

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        check_adapter(tensors, width)

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> Adapter:
        """The erasure that `tensors()` came from."""
        return adapter(provenance, tensors)


def adapter(origin: Provenance, tensors: Mapping[str, Tensor]) -> Adapter:
    """An Adapter of tensors named `LAYER|PART`, in float32.

    Raises:
        EffaceError: they are not finite.
    """
    names = dict.fromkeys(name.rpartition("|")[0] for name in tensors)
    layers = {
        name: Bottleneck(**{part: finite_float32(tensors[f"{name}|{part}"]) for part in ADAPTER_PARTS})
        for name in names
    }
    return Adapter(origin, layers)


def _module(network: nn.Module, path: str) -> nn.Module | None:
    try:
        return network.get_submodule(path)
    except AttributeError:
        return None


class _Beside:
    """A forward hook that adds what one network makes of a layer's output."""

    def __init__(self, layer: Bottleneck, scale: float):
        self.layer = layer
        self.scale = scale

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        site = Site("", module)
        states = site.read(output)
        if self.layer.down.device != states.device:
            self.layer = self.layer.to(states)
        if states.shape[-1] != self.layer.down.shape[1]:
            raise EffaceError(
                f"a layer gives {states.shape[-1]} channels where the erasure's adapter reads {self.layer.down.shape[1]}: was it made "
                "for another model?"
            )
        with without_autocast(states.device):
            change = self.scale * self.layer.of(states)
        return site.add(output, change.to(states.dtype))
