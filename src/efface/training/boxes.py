"""From a detector's boxes to bins of a grid, and to weights of a picture's places."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def covered(boxes: Iterable[tuple[float, float, float, float]], size: tuple[int, int], grid: int) -> Tensor:
    """Which bins of a grid (grid grid) some box has a part of.

    Args:
        boxes: left, top, width and height in pixels.
        size: width and height of the picture.
        grid: bins of a side.
    """
    bins = torch.zeros(grid, grid, dtype=torch.bool)
    edges = [torch.arange(grid + 1, dtype=torch.double) * length / grid for length in size]
    for left, top, width, height in boxes:
        columns = (edges[0][:-1] < left + width) & (edges[0][1:] > left)
        rows = (edges[1][:-1] < top + height) & (edges[1][1:] > top)
        bins |= rows[:, None] & columns
    return bins


def place_weights(bins: Tensor, alpha: float) -> Tensor:
    """w of every bin (grid grid) with Σ w = T: T / (K + α (T − K)) at the K covered ones of T, and α times that elsewhere."""
    total, count = bins.numel(), int(bins.sum())
    inside = total / (count + alpha * (total - count))
    return torch.where(bins, inside, alpha * inside)


def over_cells(weights: Tensor, height: int, width: int) -> Tensor:
    """Weights of bins (batch grid grid) for every cell of latents (batch 1 height width); their mean stays 1 where the grid
    divides the cells."""
    return interpolate(weights[:, None].float(), (height, width), mode="nearest-exact")
