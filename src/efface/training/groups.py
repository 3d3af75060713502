"""Which weights a trained eraser may change, by where they stand in the model."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

from efface.errors import EffaceError
from efface.families.storage import REMEDY, storage_of
from efface.models.model import Model
from efface.training.config import Where

_CROSS = re.compile(r"(^|\.)(attn2|add_[kqv]_proj|to_add_out|norm_added_[kqv])(\.|$)")
"""Paths of what belongs to cross-attention, or to the text side of joint attention."""
_TEXT = re.compile(r"(^|\.)(attn2\.to_[kv]|add_[kv]_proj)$")
"""Paths of the matrices that make keys and values of text."""
_ATTENTION = tuple(f"{end}.weight" for end in ("to_q", "to_k", "to_v", "to_out.0"))


class Weight(NamedTuple):
    """A weight that is trained."""

    name: str
    """Full name, for example `unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight`."""
    module: nn.Module
    """The module that has it."""
    parameter: str
    """Its name there."""

    def read(self) -> nn.Parameter:
        """The parameter as it stands."""
        return getattr(self.module, self.parameter)


def weights_of(model: Model, where: Where) -> list[Weight]:
    """The weights of a group of the denoiser.

    Raises:
        EffaceError: the denoiser has none, or they cannot be trained (quantised, offloaded, without memory).
    """
    network = model.networks()[0]
    own = _attends_to_itself(network.module)
    weights = []
    for path, module in network.module.named_modules():
        if not _belongs(path.replace("attn2", "attn1") if path.startswith(own) else path, module, where):
            continue
        path = path.replace(".base_layer", "")
        weights += [
            Weight(f"{network.name}.{path}.{name}".replace("..", "."), module, name) for name in module._parameters
        ]
    weights = [weight for weight in weights if weight.read() is not None]
    if not weights:
        raise EffaceError(
            f"the denoiser of this {model.family.name} pipeline has no weights in the group {where!r} (text and picture share "
            "its layers): choose --where all."
        )
    return [_trainable(weight) for weight in weights]


def attention_weights(model: Model) -> list[Weight]:
    """Queries, keys, values and outputs of every attention of the denoiser, which usual LoRAs train.

    Raises:
        EffaceError: the denoiser has no such layers.
    """
    weights = [weight for weight in weights_of(model, "all") if weight.name.endswith(_ATTENTION)]
    if not weights:
        raise EffaceError("the denoiser has no attention projections to put low-rank factors on.")
    return weights


def transformer_weights(model: Model) -> list[Weight]:
    """The matrices and kernels inside the transformers of a UNet, or inside the blocks of a diffusion transformer.

    Raises:
        EffaceError: as `weights_of`, or there are none.
    """
    network = model.networks()[0]
    inside = [path for path, module in network.module.named_modules() if type(module).__name__ == "Transformer2DModel"]
    inside = inside or [path for path, module in network.module.named_children() if isinstance(module, nn.ModuleList)]
    weights = [
        weight
        for weight in weights_of(model, "all")
        if weight.parameter == "weight"
        and isinstance(weight.module, nn.Linear | nn.Conv2d)
        and weight.name.startswith(tuple(f"{network.name}.{path}." for path in inside))
    ]
    if not weights:
        raise EffaceError("the denoiser has no transformers to put low-rank factors on.")
    return weights


def encoder_weights(model: Model, component: str, pattern: str) -> list[Weight]:
    """The weights of a text encoder whose path matches a regular expression.

    Raises:
        EffaceError: there is no such encoder, none of its weights matches, or they cannot be trained.
    """
    encoders = model.family.text_encoders()
    if component not in encoders:
        raise EffaceError(f"there is no text encoder {component!r}; expected one of {', '.join(encoders)}.")
    weights = [
        Weight(f"{component}.{path}.{name}", module, name)
        for path, module in encoders[component].named_modules()
        for name, value in module._parameters.items()
        if value is not None and re.search(pattern, f"{path}.{name}")
    ]
    if not weights:
        raise EffaceError(f"no weight of {component} matches {pattern!r}: this encoder names its layers otherwise.")
    return [_trainable(weight) for weight in weights]


def _attends_to_itself(network: nn.Module) -> tuple[str, ...]:
    """Beginnings of paths in a second attention that reads the picture alone, as blocks of SD 3.5 have one."""
    seconds = ((path, module) for path, module in network.named_modules() if path.endswith("attn2"))
    return tuple(f"{path}." for path, module in seconds if not getattr(module, "is_cross_attention", True))


def _belongs(path: str, module: nn.Module, where: Where) -> bool:
    """Whether a module's own weights are of a group; those of adapters are of none."""
    if "lora_" in path:
        return False
    inner = path.removesuffix(".base_layer")
    if where == "all":
        return True
    if where == "text":
        return bool(_TEXT.search(inner))
    if where == "cross":
        return bool(_CROSS.search(inner))
    return isinstance(module, nn.Linear | nn.Conv2d) and not _CROSS.search(inner)


def _trainable(weight: Weight) -> Weight:
    storage = storage_of(weight.module, weight.parameter)
    if not storage.is_plain:
        raise EffaceError(f"{weight.name} {storage.words}, which cannot be trained: {REMEDY}.")
    return weight
