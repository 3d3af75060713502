"""Means and maxima over the processes of a training run; without a process group, of the one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

from efface.errors import EffaceError


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def average(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over the processes."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(dist.get_world_size())


def maximum(tensor: Tensor) -> None:
    """Replace a tensor by its maximum over the processes."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)


def mean(tensor: Tensor) -> Tensor:
    """The mean of a tensor over the processes, written into it."""
    average([tensor])
    return tensor


@contextmanager
def group_errors() -> Iterator[None]:
    """Context that turns the error of a lost process into an EffaceError."""
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or isinstance(error, EffaceError):
            raise
        raise EffaceError(
            f"another process of the group was lost ({str(error).splitlines()[0]}): start the run again, it resumes."
        ) from error
