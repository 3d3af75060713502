"""What every family of pipelines must offer, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface.errors import EffaceError


class Entry(NamedTuple):
    """A network that text states enter: the denoiser, or a ControlNet beside it."""

    name: str
    """The pipeline component's name."""
    module: nn.Module
    """The network itself, unwrapped from torch.compile."""


class Projection(NamedTuple):
    """A linear layer that reads text states: a key or value matrix of cross-attention."""

    name: str
    """Component and path, for example `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k`."""
    module: nn.Linear
    """The layer; its weight is (out width)."""
    adapted: bool
    """Whether an adapter (LoRA) sits on it; then it may be mapped but not folded."""

    def weight(self) -> Tensor:
        """The effective weight (out width), active adapters included."""
        return effective_weight(self.module)


class Family(ABC):
    """A view of a pipeline that answers what the model-independent code must not ask."""

    name: str
    """Short name, shown by `efface show`."""

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline

    @classmethod
    @abstractmethod
    def serves(cls, pipeline: Any) -> bool:
        """Whether this family knows the pipeline, judged by its components."""

    @abstractmethod
    def tokenizers(self) -> list[Any]:
        """The tokenizers, in the order in which their states are concatenated."""

    @abstractmethod
    def text_encoders(self) -> dict[str, nn.Module]:
        """Component name -> text encoder, in the same order."""

    @abstractmethod
    def encode(self, ids: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Text states (batch tokens width) and pooled text (batch width) of ids and masks, one tensor a tokenizer."""

    @abstractmethod
    def entries(self) -> list[Entry]:
        """The networks whose forward takes text states."""

    @abstractmethod
    def projections(self) -> list[Projection]:
        """Every key and value matrix that reads text states; raises EffaceError where one cannot be edited."""

    @abstractmethod
    def predict(self, latents: Tensor, level: Tensor, states: Tensor, pooled: Tensor | None) -> Tensor:
        """The denoiser's raw output (batch channels height width) for scaled `latents` at timestep `level`."""

    @abstractmethod
    def uncovered(self) -> list[str]:
        """Other ways by which text enters, which a text map does not reach, in words."""

    def zeroes_empty(self) -> bool:
        """Whether the unconditional half is all zeros where no negative prompt is given, instead of the empty prompt."""
        return False

    def components(self) -> dict[str, nn.Module]:
        """The networks an erasure may edit and a fingerprint covers: denoiser and text encoders."""
        return {entry.name: entry.module for entry in self.entries()} | self.text_encoders()


def unwrap(module: Any) -> Any:
    """The module inside a torch.compile wrapper, or the module itself."""
    return getattr(module, "_orig_mod", module)


def inner_linear(name: str, module: nn.Module) -> tuple[nn.Linear, bool]:
    """The plain linear layer of a projection and whether an adapter wraps it; refuses quantised ones."""
    adapted = hasattr(module, "base_layer")
    layer: Any = module.base_layer if adapted else module
    if type(layer) is not nn.Linear or not layer.weight.is_floating_point():
        kind = f"{type(layer).__name__} of {getattr(layer, 'weight', torch.empty(0)).dtype}"
        raise EffaceError(
            f"{name} is a quantised or unknown layer ({kind}); expected a floating-point torch.nn.Linear: "
            "load the pipeline without quantisation, erase, then quantise."
        )
    return layer, adapted


def stored(module: Any, name: str) -> Tensor:
    """A module's own parameter, read from accelerate's store while it is offloaded (sequential offload)."""
    parameter = getattr(module, name).detach()
    store = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    return store[name] if parameter.is_meta and store is not None else parameter


def effective_weight(module: Any) -> Tensor:
    """Weight (out width) of a linear layer, with the contribution of active LoRA adapters added."""
    if not hasattr(module, "base_layer"):
        return stored(module, "weight")
    weight = stored(module.base_layer, "weight")
    if not getattr(module, "disable_adapters", False) and not getattr(module, "merged", False):
        for adapter in module.active_adapters:
            if adapter in module.lora_A:
                weight = weight + module.get_delta_weight(adapter).detach().to(weight)
    return weight
