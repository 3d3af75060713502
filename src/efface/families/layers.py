"""Layers as they are found in pipelines: compiled, adapted by LoRAs, offloaded, quantised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.errors import EffaceError
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
    """A module's own parameter, read from its file or from accelerate's store while it is not in memory."""
    parameter = getattr(module, name)
    stored = stored_of(parameter)
    if stored is not None:
        return stored.read(parameter.dtype)
    store = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    return store[name] if parameter.is_meta and store is not None else parameter.detach()


def sample_parameter(module: Any, name: str, step: int, count: int) -> Tensor:
    """Every `step`-th value of a module's own parameter, flattened (values), at most `count`; of a file no more is kept."""
    parameter = getattr(module, name)
    stored = stored_of(parameter)
    if stored is not None:
        return stored.sample(step, count).to(parameter.dtype)
    return read_parameter(module, name).flatten()[::step][:count]


def stored_of(parameter: Tensor) -> Stored | None:
    """Where the values of a parameter on the meta device lie; None where nobody said."""
    return getattr(parameter, "stored", None) if parameter.is_meta else None


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
    """While active, these modules compute in float32; afterwards they hold the very tensors that they held before."""
    parts = [part for module in modules for part in module.modules()]
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


def _is_narrow(tensor: Tensor) -> bool:
    """Whether a tensor is a plain one of half precision; quantised ones stay as they are."""
    return tensor.dtype in (torch.float16, torch.bfloat16) and type(tensor.data) is Tensor


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
    if states.dtype == torch.float32 and _is_narrow(like.data):
        with in_float32([module]):
            return module.forward(states.to(like.device)).to(states.device)
    return module.forward(states.to(like)).to(states.device)


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
