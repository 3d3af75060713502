"""Precision: edits are computed in float64, text states are mapped in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.errors import EffaceError


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
