"""Precision: edits are computed in float64, text states are mapped in float32, whatever the program around says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeVar
from warnings import warn

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.layers import in_float32

T = TypeVar("T")


def without_autocast(device: torch.device | str) -> AbstractContextManager[object]:
    """Context in which arithmetic on a device has the precision of its operands, also inside `torch.autocast`."""
    kind = torch.device(device).type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Context in which new tensors are ordinary float32 ones on the CPU, and nothing is cast on the way.

    Autocast, inference mode, the precision of products, the default dtype and the default device are the program's; what is
    erased must not depend on them.
    """
    dtype, products = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for kind in {"cpu", str(getattr(torch.accelerator.current_accelerator(), "type", "cpu"))}:
            stack.enter_context(without_autocast(kind))
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        if products != "highest":
            stack.callback(torch.set_float32_matmul_precision, products)
            torch.set_float32_matmul_precision("highest")
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


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
