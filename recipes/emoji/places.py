"""Paint places: gradients, a horizon and a few simple shapes, every picture with its own layout and tint.

Places are our own drawings, pale enough for any of the nine hands to stand out before them, black stencils included.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from recipes.emoji.words import PLACES

SIDE = 96
"""Side of a picture in pixels."""
FINE = 3
"""Painted this much larger, then reduced."""
Colour = tuple[int, int, int]


class Sheet:
    """A picture in the making; positions and sizes are shares of the side.

    Args:
        rng: decides the layout.
    """

    def __init__(self, rng: random.Random):
        self.rng, self.size = rng, SIDE * FINE
        self.image = Image.new("RGB", (self.size, self.size))
        self.draw = ImageDraw.Draw(self.image)

    def colour(self, base: Colour, spread: int = 10) -> Colour:
        """A colour near `base`."""
        shift = self.rng.randint(-spread, spread)
        red, green, blue = (max(0, min(255, c + shift + self.rng.randint(-4, 4))) for c in base)
        return red, green, blue

    def sweep(self, top: Colour, bottom: Colour, start: float = 0, end: float = 1) -> None:
        """A vertical gradient between two heights."""
        a, b = round(start * self.size), round(end * self.size)
        share = np.linspace(0, 1, max(b - a, 1))[:, None, None]
        rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
        band = np.broadcast_to(rows, (len(rows), self.size, 3)).round().astype(np.uint8)
        self.image.paste(Image.fromarray(np.ascontiguousarray(band)), (0, a))

    def disc(self, x: float, y: float, radius: float, fill: Colour, flat: float = 1) -> None:
        """A disc, or an ellipse `flat` times as high as it is wide."""
        n = self.size
        self.draw.ellipse([(x - radius) * n, (y - radius * flat) * n, (x + radius) * n, (y + radius * flat) * n], fill)

    def shape(self, points: list[tuple[float, float]], fill: Colour) -> None:
        """A polygon."""
        self.draw.polygon([(x * self.size, y * self.size) for x, y in points], fill)

    def box(self, x: float, y: float, right: float, bottom: float, fill: Colour) -> None:
        """A rectangle."""
        self.draw.rectangle([x * self.size, y * self.size, right * self.size, bottom * self.size], fill)

    def hills(self, height: float, swing: float, fill: Colour, waves: float = 1.5) -> None:
        """Rolling ground from a wavy line about `height` down to the lower edge."""
        phase, rate = self.rng.random() * math.tau, waves * math.tau * self.rng.uniform(0.7, 1.3)
        line = [(x / 48, height + swing * math.sin(phase + rate * x / 48)) for x in range(49)]
        self.shape([*line, (1, 1), (0, 1)], fill)

    def cloud(self, x: float, y: float, size: float, fill: Colour) -> None:
        """A cloud of three discs."""
        for dx, dy, r in ((-0.8, 0.1, 0.55), (0, -0.15, 0.8), (0.8, 0.1, 0.55)):
            self.disc(x + dx * size, y + dy * size, r * size, fill, 0.7)


def meadow(s: Sheet) -> None:
    """Green hills with flowers under a light sky."""
    s.sweep(s.colour((176, 214, 250)), s.colour((222, 240, 255)))
    horizon = s.rng.uniform(0.4, 0.6)
    for _ in range(s.rng.randint(0, 2)):
        s.cloud(s.rng.random(), s.rng.uniform(0.08, 0.28), s.rng.uniform(0.07, 0.11), (246, 250, 255))
    s.hills(horizon, 0.03, s.colour((158, 214, 128)))
    s.hills(horizon + 0.14, 0.03, s.colour((138, 202, 108)))
    for _ in range(14):
        s.disc(
            s.rng.random(), s.rng.uniform(horizon + 0.12, 1), 0.012, s.rng.choice([(255, 240, 150), (255, 200, 220)])
        )


def beach(s: Sheet) -> None:
    """Sand below a strip of sea."""
    s.sweep(s.colour((170, 220, 252)), s.colour((220, 242, 255)))
    horizon = s.rng.uniform(0.3, 0.42)
    if s.rng.random() < 0.6:
        s.disc(s.rng.uniform(0.15, 0.85), horizon - 0.18, 0.07, (255, 240, 160))
    s.box(0, horizon, 1, 1, s.colour((104, 188, 218)))
    s.hills(horizon + 0.16, 0.02, (240, 250, 252))
    s.hills(horizon + 0.19, 0.02, s.colour((246, 224, 168)))


def desert(s: Sheet) -> None:
    """Dunes under a hot sky."""
    s.sweep(s.colour((250, 222, 170)), s.colour((255, 240, 210)))
    horizon = s.rng.uniform(0.4, 0.55)
    s.disc(s.rng.uniform(0.15, 0.85), horizon - 0.25, 0.08, (255, 250, 225))
    s.hills(horizon, 0.06, s.colour((232, 184, 116)), 1)
    s.hills(horizon + 0.15, 0.07, s.colour((220, 166, 98)), 1)
    s.hills(horizon + 0.34, 0.05, s.colour((208, 152, 84)), 1)


def snow(s: Sheet) -> None:
    """White ground, pale sky, falling flakes."""
    s.sweep(s.colour((190, 206, 224)), s.colour((220, 230, 242)))
    horizon = s.rng.uniform(0.45, 0.62)
    for _ in range(3):
        x, width = s.rng.random(), s.rng.uniform(0.06, 0.09)
        for k in range(3):
            y = horizon - 0.02 - 0.06 * k
            s.shape(
                [(x - width + 0.015 * k, y), (x + width - 0.015 * k, y), (x, y - 0.11)], s.colour((160, 186, 186), 4)
            )
    s.hills(horizon, 0.03, s.colour((244, 248, 254), 4))
    for _ in range(40):
        s.disc(s.rng.random(), s.rng.random(), s.rng.uniform(0.006, 0.013), (255, 255, 255))


def city(s: Sheet) -> None:
    """A row of towers with lit windows above a street."""
    s.sweep(s.colour((196, 208, 226)), s.colour((230, 234, 242)))
    ground, x = s.rng.uniform(0.72, 0.8), -0.02
    while x < 1:
        width, top = s.rng.uniform(0.12, 0.2), s.rng.uniform(0.12, 0.45)
        wall = s.colour((158, 168, 186), 16)
        s.box(x, top, x + width, ground, wall)
        for wy in np.arange(top + 0.04, ground - 0.05, 0.075):
            for wx in np.arange(x + 0.025, x + width - 0.03, 0.05):
                s.box(wx, wy, wx + 0.022, wy + 0.032, s.rng.choice([(250, 236, 170), (206, 216, 230)]))
        x += width + 0.012
    s.box(0, ground, 1, 1, s.colour((136, 140, 150)))
    for k in range(5):
        s.box(0.05 + 0.22 * k, ground + 0.1, 0.16 + 0.22 * k, ground + 0.125, (226, 226, 220))


def room(s: Sheet) -> None:
    """A papered wall, a window, a skirting board and a wooden floor."""
    wall = s.colour(s.rng.choice([(244, 222, 200), (226, 214, 236), (214, 232, 220)]))
    s.box(0, 0, 1, 1, wall)
    paper: Colour = (wall[0] - 9, wall[1] - 9, wall[2] - 9)
    for k in range(0, 12, 2):
        s.box(k / 12, 0, (k + 1) / 12, 1, paper)
    x, y = s.rng.uniform(0.08, 0.62), s.rng.uniform(0.08, 0.16)
    s.box(x, y, x + 0.3, y + 0.32, (250, 250, 246))
    for column in (0, 1):
        for row in (0, 1):
            left, top = x + 0.025 + 0.13 * column, y + 0.025 + 0.14 * row
            s.box(left, top, left + 0.12, top + 0.13, s.colour((180, 216, 246), 4))
    floor = s.rng.uniform(0.66, 0.76)
    s.box(0, floor, 1, 1, s.colour((202, 160, 118)))
    for k in range(1, 4):
        s.box(0, floor + 0.085 * k, 1, floor + 0.085 * k + 0.007, (176, 136, 98))
    s.box(0, floor - 0.03, 1, floor, (248, 244, 236))


def night_sky(s: Sheet) -> None:
    """A moon and stars on blue."""
    s.sweep(s.colour((84, 98, 168)), s.colour((134, 142, 204)))
    for _ in range(34):
        s.disc(s.rng.random(), s.rng.random(), s.rng.uniform(0.006, 0.014), (250, 246, 206))
    x, y = s.rng.uniform(0.12, 0.88), s.rng.uniform(0.12, 0.3)
    s.disc(x, y, 0.09, (252, 246, 206))
    s.disc(x + 0.045, y - 0.02, 0.08, (98, 110, 178))


def sea(s: Sheet) -> None:
    """Waves up to a high horizon."""
    s.sweep(s.colour((196, 226, 248)), s.colour((232, 244, 252)))
    horizon = s.rng.uniform(0.16, 0.3)
    s.sweep(s.colour((112, 180, 226)), s.colour((74, 142, 206)), horizon, 1)
    for y in np.arange(horizon + 0.06, 1, 0.1):
        shift = s.rng.random() * 0.2
        for k in range(-1, 6):
            x = shift + 0.2 * k
            s.draw.arc(
                [x * s.size, y * s.size, (x + 0.2) * s.size, (y + 0.06) * s.size], 200, 340, (188, 222, 246), FINE * 2
            )


def forest(s: Sheet) -> None:
    """Trunks and crowns, one behind another."""
    s.sweep(s.colour((190, 222, 180)), s.colour((214, 234, 196)))
    for depth in range(2):
        x, ground = s.rng.uniform(-0.1, 0.05), 0.62 + 0.14 * depth
        while x < 1.05:
            s.box(x - 0.022, 0.3, x + 0.022, ground, s.colour((156, 122, 92), 6))
            crown = s.colour(((128, 178, 112), (104, 158, 94))[depth], 8)
            for dx, y, r in ((-0.06, 0.2, 0.09), (0.06, 0.2, 0.09), (0, 0.08, 0.1), (0, 0.28, 0.1)):
                s.disc(x + dx, y + 0.06 * depth, r, crown)
            x += s.rng.uniform(0.2, 0.3)
    s.hills(0.72, 0.015, s.colour((150, 176, 108)))


def mountains(s: Sheet) -> None:
    """Peaks capped with snow."""
    s.sweep(s.colour((170, 204, 240)), s.colour((226, 238, 250)))
    base = s.rng.uniform(0.7, 0.8)
    for _ in range(4):
        x, top, width = s.rng.random(), s.rng.uniform(0.12, 0.36), s.rng.uniform(0.26, 0.38)
        s.shape([(x - width, base), (x, top), (x + width, base)], s.colour((150, 158, 180), 12))
        cap = 0.3
        s.shape([(x - width * cap, top + (base - top) * cap), (x, top), (x + width * cap, top + (base - top) * cap)],
                (250, 252, 255))  # fmt: skip
    s.hills(base - 0.02, 0.02, s.colour((150, 186, 140)))


def sunset(s: Sheet) -> None:
    """A low sun in bands of orange and pink."""
    horizon = s.rng.uniform(0.66, 0.8)
    s.sweep(s.colour((196, 144, 200)), s.colour((255, 186, 120)), 0, horizon)
    s.disc(s.rng.uniform(0.2, 0.8), horizon, s.rng.uniform(0.13, 0.18), (255, 232, 150))
    for _ in range(3):
        y = s.rng.uniform(0.12, horizon - 0.14)
        s.disc(s.rng.random(), y, s.rng.uniform(0.12, 0.22), s.colour((240, 160, 160), 6), 0.12)
    s.sweep(s.colour((176, 120, 150)), s.colour((146, 100, 142)), horizon, 1)


def stage(s: Sheet) -> None:
    """Red curtains drawn aside, boards and a spotlight."""
    s.box(0, 0, 1, 1, s.colour((236, 206, 176)))
    s.disc(s.rng.uniform(0.35, 0.65), 0.5, 0.3, (250, 232, 206), 1.2)
    floor, width = s.rng.uniform(0.74, 0.82), s.rng.uniform(0.14, 0.22)
    s.box(0, floor, 1, 1, s.colour((188, 140, 100)))
    for side in (0, 1):
        for k in range(5):
            x = side * (1 - width) + width * k / 5
            s.box(x, 0, x + width / 5, floor + 0.03, ((206, 74, 80), (182, 58, 66))[k % 2])
    for k in range(8):
        s.disc((k + 0.5) / 8, 0.0, 0.075, ((214, 82, 86), (190, 62, 70))[k % 2], 1.5)


PAINTERS: dict[str, Callable[[Sheet], None]] = {
    "meadow": meadow, "beach": beach, "desert": desert, "snow": snow, "city": city, "room": room, "night sky": night_sky,
    "sea": sea, "forest": forest, "mountains": mountains, "sunset": sunset, "stage": stage,
}  # fmt: skip


def paint(place: int, variant: int) -> np.ndarray:
    """One picture of a place (96 96 3), uint8; the same for the same numbers."""
    sheet = Sheet(random.Random(place * 100_003 + variant))
    PAINTERS[PLACES[place].name](sheet)
    return np.asarray(sheet.image.resize((SIDE, SIDE), Image.Resampling.BOX))


def paint_all(variants: int, processes: int) -> Tensor:
    """Pictures of every place (places variants 3 96 96), uint8."""
    jobs = [(p, v) for p in range(len(PLACES)) for v in range(variants)]
    with ProcessPoolExecutor(processes) as pool:
        pictures = list(pool.map(paint, *zip(*jobs, strict=True), chunksize=64))
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.unflatten(0, (len(PLACES), variants)).contiguous()
