"""Means of a site's latents as they are kept in files: those that are not zero, row by row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MAX_MEANS = 1 << 28
"""Limit on the number of means in a file: a forged header may ask for more memory than there is."""


def sparse(means: Tensor) -> dict[str, Tensor]:
    """Means (concepts timesteps latents) as three tensors: number of nonzero means per row, their latents, and their values."""
    rows = means.flatten(0, 1)
    row, latents = rows.nonzero(as_tuple=True)
    small = torch.int16 if means.shape[2] <= torch.iinfo(torch.int16).max else torch.int32
    counts = torch.bincount(row, minlength=len(rows)).int()
    return {"counts": counts, "latents": latents.to(small), "values": rows[row, latents].clone()}


def dense(tensors: Mapping[str, Tensor], shape: tuple[int, int, int]) -> Tensor:
    """The means that `sparse` returned as three tensors; raises ValueError where their shapes do not match."""
    counts, latents, values = (tensors[name] for name in ("counts", "latents", "values"))
    concepts, timesteps, size = shape
    whole = not counts.is_floating_point() and not latents.is_floating_point() and values.is_floating_point()
    fit = counts.shape == (concepts * timesteps,) and latents.shape == values.shape == (int(counts.sum()),)
    if not whole or not fit or type(size) is not int or not 0 < concepts * timesteps * size <= MAX_MEANS:
        raise ValueError("the shape of the means does not match")
    if (counts < 0).any() or (latents < 0).any() or (latents >= size).any():
        raise ValueError("an index of the means is out of range")
    means = torch.zeros(concepts * timesteps, size, dtype=values.dtype)
    means[torch.repeat_interleave(counts.long()), latents.long()] = values
    return means.view(shape)
