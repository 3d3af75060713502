"""Means and maxima over the processes of a training run; of one process where there is no group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

from efface.errors import EffaceError


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def average(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over the processes."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(dist.get_world_size())


def largest(tensor: Tensor) -> None:
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)


def same_everywhere(tensor: Tensor) -> Tensor:
    """The mean over the processes."""
    average([tensor])
    return tensor


@contextmanager
def group_errors() -> Iterator[None]:
    """Turn the error of a process group that lost a process into a sentence."""
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or isinstance(error, EffaceError):
            raise
        raise EffaceError(
            f"another process of the group was lost ({str(error).splitlines()[0]}): start the run again, it resumes."
        ) from error
