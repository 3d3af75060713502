"""The judge's network: objects with their places on a grid of cells, their style, the place, and whether all is whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Seen(NamedTuple):
    """What the network sees in pictures."""

    objects: Tensor
    """Logits of every object at every cell (batch objects 12 12)."""
    styles: Tensor
    """Logits of every style at every cell (batch styles 12 12)."""
    features: Tensor
    """Unit vectors of every cell (batch width 12 12)."""
    places: Tensor
    """Logits of every place and plain ground (batch places)."""
    debris: Tensor
    """Logit of torn, smeared or half-drawn things anywhere (batch,)."""


class Stage(nn.Module):
    """Two convolutions with a skip."""

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1)
        self.second = nn.Conv2d(after, after, 3, 1, 1)
        self.skip = nn.Conv2d(before, after, 1, stride)
        self.norms = nn.ModuleList([nn.GroupNorm(8, after), nn.GroupNorm(8, after)])

    def forward(self, x: Tensor) -> Tensor:
        """(batch before h w) to (batch after h/stride w/stride)."""
        hidden = F.silu(self.norms[0](self.first(x)))
        return F.silu(self.skip(x) + self.norms[1](self.second(hidden)))


class JudgeNet(nn.Module):
    """A small residual network, 96 px to 12 x 12 cells.

    Args:
        objects: number of objects.
        styles: number of styles.
        places: number of places and plain grounds.
        widths: channels at 48, 24, 12, 12 and 12 cells a side.
    """

    def __init__(self, objects: int, styles: int, places: int, widths: tuple[int, ...] = (32, 64, 128, 160, 160)):
        super().__init__()
        a, b, c, d, width = widths
        self.stem = nn.Conv2d(3, a, 5, stride=2, padding=2)
        self.stages = nn.Sequential(Stage(a, b, 2), Stage(b, c, 2), Stage(c, d), Stage(d, width))
        self.objects, self.styles = nn.Conv2d(width, objects, 1), nn.Conv2d(width, styles, 1)
        nn.init.constant_(self.objects.bias, -5.0)
        self.places, self.debris = nn.Linear(2 * width, places), nn.Linear(2 * width, 1)

    def forward(self, pictures: Tensor) -> Seen:
        """What pictures (batch 3 96 96) in −1..1 show."""
        cells = self.stages(self.stem(pictures))
        whole = torch.cat([cells.mean((2, 3)), cells.amax((2, 3))], 1)
        return Seen(
            objects=self.objects(cells),
            styles=self.styles(cells),
            features=F.normalize(cells, dim=1),
            places=self.places(whole),
            debris=self.debris(whole)[:, 0],
        )


class Verdict(NamedTuple):
    """What pictures show, cell by cell summed up."""

    presence: Tensor
    """Probability of every object (batch objects)."""
    cell: Tensor
    """Where each is likeliest: row and column of its cell (batch objects 2)."""
    style: Tensor
    """Likeliest style (batch,), seen at the likeliest object's cell."""
    place: Tensor
    """Likeliest place or ground (batch,)."""
    debris: Tensor
    """Probability of debris (batch,)."""
    likeness: Tensor
    """Cosine of the likeliest object's cell with the nearest drawing's prototype (batch,)."""


def verdict(seen: Seen, prototypes: Tensor) -> Verdict:
    """Sum up; prototypes are unit vectors (drawings width)."""
    batch, _, _, columns = seen.objects.shape
    best, where = seen.objects.flatten(2).max(2)
    likeliest = where[torch.arange(batch), best.argmax(1)]
    at = (torch.arange(batch), slice(None), likeliest)
    return Verdict(
        presence=best.sigmoid(),
        cell=torch.stack([where // columns, where % columns], 2),
        style=seen.styles.flatten(2)[at].argmax(1),
        place=seen.places.argmax(1),
        debris=seen.debris.sigmoid(),
        likeness=(seen.features.flatten(2)[at] @ prototypes.T).amax(1),
    )
