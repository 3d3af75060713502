"""The interfaces of numbers over pictures: distances of pairs, agreement with prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image
from torch import Tensor

Pictures = Sequence[Image.Image]


class Comparison(Protocol):
    """Pictures and others in, a distance for each pair out (LPIPS); the resize is part of it."""

    name: str
    """Name and version."""

    def __call__(self, images: Pictures, others: Pictures, /) -> Sequence[float] | Tensor:
        """Distances (batch)."""
        ...


class Agreement(Protocol):
    """Pictures and their prompts in, a score for each out (CLIP score)."""

    name: str

    def __call__(self, images: Pictures, prompts: Sequence[str], /) -> Sequence[float] | Tensor:
        """Scores (batch)."""
        ...
