"""Layers as they are found in pipelines: compiled, adapted by LoRAs, offloaded, quantised."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.errors import EffaceError
from efface.families.storage import storage_of, values_of
from efface.io.stored import Stored


def unwrap(module: Any) -> Any:
    """The module inside a torch.compile wrapper, or the module itself."""
    return getattr(module, "_orig_mod", module)


def class_names(module: Any) -> set[str]:
    """Names of a network's class and of those that it derives from, or of the one that a skeleton stands for."""
    return {kind.__name__ for kind in type(module).__mro__} | {getattr(module, "stands_for", "")} - {""}


def execution_device(pipeline: Any) -> Any:
    """Where the pipeline computes, also while its weights are offloaded."""
    return getattr(pipeline, "_execution_device", pipeline.device)


def inner_linear(name: str, module: nn.Module) -> tuple[nn.Linear, bool]:
    """The linear layer of a projection, of whatever storage, and whether an adapter wraps it; refuses what is none."""
    adapted = hasattr(module, "base_layer")
    layer: Any = module.base_layer if adapted else module
    if not isinstance(getattr(layer, "in_features", None), int):
        raise EffaceError(
            f"{name} is an unknown layer ({type(layer).__name__}); expected a linear one, as the model was published with: load "
            "the pipeline with its own layers."
        )
    return layer, adapted


def leave_in_file(module: nn.Module, tensors: Mapping[str, Stored]) -> list[str]:
    """Say of the parameters of a module on the meta device where their values lie; returns those that have no place.

    Args:
        module: none of its parameters is in memory, nor will be.
        tensors: name of each parameter -> its tensor.
    """
    missing = []
    for name, parameter in module.named_parameters():
        stored = tensors.get(name)
        if stored is None or stored.shape != tuple(parameter.shape):
            missing.append(name)
        else:
            parameter.stored = stored  # type: ignore[attr-defined]
    return missing


@contextmanager
def in_float32(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While active, these modules compute in float32; afterwards they hold the very tensors that they held before.

    One whose weights are quantised or stored in 8 bits computes as its library does.
    """
    parts = [part for module in modules if not _is_packed(module) for part in module.modules()]
    parameters = [
        (part, name, parameter, parameter.data)
        for part in parts
        for name, parameter in part._parameters.items()
        if parameter is not None and _is_narrow(parameter)
    ]
    buffers = [
        (part, name, buffer)
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None and _is_narrow(buffer)
    ]
    try:
        for _, _, parameter, _ in parameters:
            parameter.data = parameter.data.float()
        for part, name, buffer in buffers:
            part._buffers[name] = buffer.float()
        yield
    finally:
        for part, name, parameter, data in parameters:
            parameter.data = data
            part._parameters[name] = parameter  # offloading may have put another in its place
        for part, name, buffer in buffers:
            part._buffers[name] = buffer


def _is_packed(module: nn.Module) -> bool:
    """Whether few bits hold a weight of a module."""
    return any(
        storage_of(part, name).coarse
        for part in module.modules()
        for name, parameter in part._parameters.items()
        if parameter is not None
    )


def _is_narrow(tensor: Tensor) -> bool:
    """Whether a tensor is a plain one of half precision; quantised ones stay as they are."""
    return tensor.dtype in (torch.float16, torch.bfloat16) and type(tensor.data) is Tensor


def effective_weight(module: Any, called: str, group: Any = None) -> Tensor:
    """Weight (out width) of a linear layer, dequantised, with the contribution of active adapters added.

    Args:
        module: the layer, or the adapter around it.
        called: its name, for sentences.
        group: what `efface.families.storage.disk_group` says of it.

    Raises:
        EffaceError: its values cannot be read.
    """
    if not hasattr(module, "base_layer"):
        return values_of(module, "weight", group, called=called)
    weight = values_of(module.base_layer, "weight", group, called=called)
    if getattr(module, "disable_adapters", False) or getattr(module, "merged", False) or not module.active_adapters:
        return weight
    if not hasattr(module, "lora_A"):  # whatever an adapter does to the weight, PEFT can merge it into a copy
        storage = storage_of(module.base_layer, "weight", group)
        if not storage.is_plain:
            raise EffaceError(
                f"{called} {storage.words} under an adapter ({type(module).__name__}): unload the adapter first."
            )
        merged = copy.deepcopy(module)
        merged.merge()
        return values_of(merged.base_layer, "weight")
    for adapter in module.active_adapters:
        if adapter in module.lora_A:
            weight = weight + module.get_delta_weight(adapter).detach().to(weight)
    return weight


def apply_without_hooks(module: nn.Module, states: Tensor) -> Tensor:
    """The output of a small module for text states without its hooks, which attached erasures put there."""
    device = next((p.device for p in module.parameters() if not p.is_meta), states.device)
    dtypes = (p.dtype for p in module.parameters() if not p.is_meta and p.is_floating_point() and p.dtype.itemsize > 1)
    dtype = next(dtypes, states.dtype)
    if states.dtype == torch.float32 and dtype in (torch.float16, torch.bfloat16) and not _is_packed(module):
        with in_float32([module]):
            return module.forward(states.to(device)).to(states.device)
    return module.forward(states.to(device, dtype)).to(states.device)


def low_rank(module: Any, inputs: Tensor, down: Tensor, up: Tensor, gain: Tensor | None = None) -> Tensor:
    """B G A x, what factors add to the output of a linear layer or convolution, in the precision of the factors.

    Args:
        module: the layer.
        inputs: x, what it reads (batch …).
        down: A (rank inputs), of a convolution its kernel flattened.
        up: B (outputs rank).
        gain: diagonal of G for each row of the batch (batch rank); 1 by default.
    """
    x = inputs.to(down.dtype)
    if not isinstance(module, nn.Conv2d):
        inner = functional.linear(x, down)
        inner = inner if gain is None else inner * gain.view(len(gain), *(1,) * (inner.ndim - 2), -1)
        return functional.linear(inner, up)
    kernel = down.view(len(down), *module.weight.shape[1:])
    inner = functional.conv2d(x, kernel, None, module.stride, module.padding, module.dilation)
    inner = inner if gain is None else inner * gain[:, :, None, None]
    return functional.conv2d(inner, up[:, :, None, None])
