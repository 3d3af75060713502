"""Mean absolute difference of the colours."""

from __future__ import annotations

from efface.io.images import to_levels
from efface.metrics.base import Pictures


class Pixels:
    """Mean absolute difference of the colours, 0 to 1: a distance that needs no weights."""

    name = "pixels-1"

    def __call__(self, images: Pictures, others: Pictures, /) -> list[float]:
        """Distances of pairs of pictures of one size."""
        pairs = zip(images, others, strict=True)
        return [float((to_levels(a) - to_levels(b)).abs().mean()) / 255 for a, b in pairs]
