"""Linear layers that read text states: what a closed-form erasure edits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.layers import effective_weight, inner_linear
from efface.families.networks import Network
from efface.families.storage import disk_group_at


class Projection(NamedTuple):
    """A linear layer that reads text states: a key or value matrix of cross-attention, or the entry of a joint one."""

    name: str
    """Component and path, for example `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k`."""
    module: nn.Linear
    """The layer; its weight is (out width)."""
    adapted: bool
    """Whether an adapter (LoRA) sits on it; then it may be mapped but not folded."""
    group: Any = None
    """What keeps its weight in a file while it is not needed (`efface.families.storage.disk_group`)."""

    @property
    def width(self) -> int:
        """Width of the text states that it reads."""
        return int(getattr(self.module, "base_layer", self.module).in_features)

    def weight(self) -> Tensor:
        """The effective weight (out width), dequantised, active adapters included; raises EffaceError where it cannot be read."""
        return effective_weight(self.module, f"{self.name}.weight", self.group)


POOLED_LAYERS = ("add_embedding.linear_1", "time_text_embed.text_embedder.linear_1")
"""Ends of the paths, in diffusers' networks, of the linear layers whose first columns read the pooled text."""


def reads_pooled(weight: str) -> bool:
    """Whether a weight of that full name reads the pooled text rather than the text states."""
    return weight.removesuffix(".weight").endswith(POOLED_LAYERS)


def projection(name: str, module: nn.Module) -> Projection:
    """A linear layer of a model as a projection; raises EffaceError for a layer of another kind."""
    layer, adapted = inner_linear(name, module)
    return Projection(name, module if adapted else layer, adapted)  # type: ignore[arg-type]


def in_their_groups(projections: Iterable[Projection], networks: Iterable[Network]) -> list[Projection]:
    """The projections of some networks, each with the group that keeps it in a file, where one does."""
    modules = {network.name: network.module for network in networks}
    found = []
    for projection in projections:
        name = next((name for name in modules if projection.name.startswith(f"{name}.")), None)
        path = projection.name.removeprefix(f"{name}.")
        found.append(projection if name is None else projection._replace(group=disk_group_at(modules[name], path)))
    return found


def cross_attentions(component: str, network: nn.Module) -> list[Projection]:
    """The key and value matrices of every cross-attention (`attn2`) of a network.

    Raises:
        EffaceError: they are fused, or no linear layers.
    """
    projections = []
    for name, block in network.named_modules():
        if not (name.endswith("attn2") and hasattr(block, "to_k")):
            continue
        # Unfusing puts the processors back but leaves the block's own flag set.
        if type(getattr(block, "processor", None)).__name__.startswith("Fused"):
            raise EffaceError(
                f"the projections of {component}.{name} are fused; expected separate keys and values: "
                "call unfuse_qkv_projections() on the pipeline first."
            )
        projections += [projection(f"{component}.{name}.{part}", getattr(block, part)) for part in ("to_k", "to_v")]
    return projections
