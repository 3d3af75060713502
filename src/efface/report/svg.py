"""Small line plots as SVG inside a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class PlotArea(NamedTuple):
    """The rectangle of a plot between its axes, in the units of its SVG."""

    left: float
    right: float
    top: float
    bottom: float

    def x(self, share: float) -> float:
        """Where a share of the horizontal axis lies, 0 at the left."""
        return self.left + (self.right - self.left) * share

    def y(self, share: float) -> float:
        """Where a share of the vertical axis lies, 0 at the bottom."""
        return self.bottom - (self.bottom - self.top) * share

    def line(self, points: Sequence[tuple[float, float]], *, colour: str = "#1e5ac8", dashed: bool = False) -> str:
        """A line through points given in shares of both axes."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
