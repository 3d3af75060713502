"""Small line plots as PNG: training curves, certificates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw

from efface.io.images import save_picture
from efface.report.grid import INK, PAPER

COLOURS = (
    (30, 90, 200), (200, 60, 40), (40, 140, 70), (150, 90, 170), (220, 150, 30), (70, 170, 180), (120, 120, 120), (160, 90, 40),
)  # fmt: skip
"""Colours of the series, in their order."""


def line_plot(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    title: str,
    logarithmic: Literal["xy", "x", ""] = "xy",
    marks: Mapping[str, float] | None = None,
    size: tuple[int, int] = (640, 260),
) -> None:
    """Draw series of (x, y) with their names; the least and largest values stand at the axes.

    Args:
        series: name -> points; on a logarithmic axis, points at 0 or less are left out.
        path: PNG file to write.
        title: above the plot.
        logarithmic: which axes.
        marks: name -> x of a vertical line.
        size: width and height in pixels.
    """
    scales = [math.log if axis in logarithmic else float for axis in "xy"]
    visible = {
        name: [
            (scales[0](x), scales[1](y), x, y)
            for x, y in points
            if (x > 0 or "x" not in logarithmic) and (y > 0 or "y" not in logarithmic)
        ]
        for name, points in series.items()
    }
    every = [point for points in visible.values() for point in points]
    if not every:
        return
    (left, right), (low, high) = ((min(p[i] for p in every), max(p[i] for p in every)) for i in (0, 1))
    width, height = size
    margin = 44
    legend = 20 + 6 * max(map(len, visible))

    def at(x: float, y: float) -> tuple[float, float]:
        """Pixel of a point in the scales of the axes."""
        across, up = (x - left) / (right - left + 1e-9), (y - low) / (high - low + 1e-9)
        return margin + across * (width - margin - legend), height - margin - up * (height - 2 * margin)

    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((margin, 6), title, fill=INK)
    for name, x in (marks or {}).items():
        (across, top), (_, bottom) = at(scales[0](x), high), at(scales[0](x), low)
        pen.line([(across, top), (across, bottom)], fill=INK, width=1)
        pen.text((across + 4, bottom - 14), name, fill=INK)
    for number, (name, points) in enumerate(visible.items()):
        colour = COLOURS[number % len(COLOURS)]
        pen.line([at(x, y) for x, y, _, _ in points], fill=colour, width=2)
        pen.text((width - legend + 10, margin + 14 * number), name, fill=colour)
    for chosen in (min(every, key=lambda p: p[1]), max(every, key=lambda p: p[1])):
        pen.text((2, at(left, chosen[1])[1] - 6), f"{chosen[3]:.3f}", fill=INK)
    for chosen in (min(every), max(every)):
        pen.text((at(chosen[0], low)[0] - 10, height - margin + 8), f"{chosen[2]:g}", fill=INK)
    save_picture(page, path)
