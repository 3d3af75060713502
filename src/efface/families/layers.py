"""Layers as they are found in pipelines: compiled, adapted by LoRAs, offloaded, quantised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import EffaceError


def unwrap(module: Any) -> Any:
    """The module inside a torch.compile wrapper, or the module itself."""
    return getattr(module, "_orig_mod", module)


def execution_device(pipeline: Any) -> Any:
    """Where the pipeline computes, also while its weights are offloaded."""
    return getattr(pipeline, "_execution_device", pipeline.device)


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


def read_parameter(module: Any, name: str) -> Tensor:
    """A module's own parameter, read from accelerate's store while it is offloaded (sequential offload)."""
    parameter = getattr(module, name).detach()
    store = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    return store[name] if parameter.is_meta and store is not None else parameter


def effective_weight(module: Any) -> Tensor:
    """Weight (out width) of a linear layer, with the contribution of active LoRA adapters added."""
    if not hasattr(module, "base_layer"):
        return read_parameter(module, "weight")
    weight = read_parameter(module.base_layer, "weight")
    if not getattr(module, "disable_adapters", False) and not getattr(module, "merged", False):
        for adapter in module.active_adapters:
            if adapter in module.lora_A:
                weight = weight + module.get_delta_weight(adapter).detach().to(weight)
    return weight


def apply_without_hooks(module: nn.Module, states: Tensor) -> Tensor:
    """The output of a small module for text states without its hooks, which attached erasures put there."""
    like = next((p for p in module.parameters() if not p.is_meta), states)
    return module.forward(states.to(like)).to(states.device)
