"""Precision: edits are computed in float64, text states are mapped in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar
from warnings import warn

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.layers import in_float32

T = TypeVar("T")


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its own device where that knows float64 (MPS does not), else on the CPU."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def on_cpu(tensor: Tensor) -> Tensor:
    """The tensor in float64 on the CPU, where every system is solved."""
    return tensor.detach().cpu().double()


def finite_float32(values: Tensor) -> Tensor:
    """Values of an edit in float32, contiguous; raises EffaceError where one is not finite."""
    if not torch.isfinite(values).all():
        raise EffaceError("the edit gives values that are not finite: nothing was erased; use a larger ridge weight.")
    return values.float().contiguous()


def in_float32_where_it_fits(encoders: Iterable[nn.Module], encode: Callable[[], T]) -> T:
    """What `encode` gives while text encoders compute in float32; in their own precision, with a warning, where the device
    has no room for that."""
    try:
        with in_float32(encoders):
            return encode()
    except torch.OutOfMemoryError:
        warn(
            "the device has no room for the text encoders in float32: the text is encoded in their own precision, which changes "
            "the erasure a little; make it on the CPU or on a larger device for the exact one.",
            stacklevel=3,
        )
        return encode()
