"""Compose scenes: a place or a plain ground, then no, one or two objects of one style, anywhere, at several sizes.

A `Scene` says what is drawn; `Composer` draws batches of them with torch alone, on any device.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from recipes.emoji.places import SIDE, paint_all
from recipes.emoji.words import BENCHMARK, GROUNDS, OBJECTS, PLACES, STYLES

CELL = 8
"""Pixels of one latent cell: objects stand on whole cells, so that the same drawing has the same latents, moved."""
SIZES = (40, 48, 56, 72, 88)
"""Sides of a drawing in pixels, 0.42 to 0.92 of the picture's."""
SINGLE = (0.12, 0.18, 0.30, 0.28, 0.12)
"""How often an object alone has each size."""
PAIR = (0.55, 0.45)
"""How often an object of two has each of the first two sizes."""
RELATIVES = (
    "tiger", "bear", "pig", "elephant", "bird", "tropical drink", "tractor", "helicopter", "trumpet", "tulip", "cherries",
    "balloon", "palm tree", "grapes", "coffee", "bicycle",
)  # fmt: skip
"""Objects beside the benchmark's that are like one of them, shown more often than the rest."""
RELATIONS = ("left of", "right of", "above", "below")


class Item(NamedTuple):
    """An object of a scene."""

    thing: int
    """Index into OBJECTS."""
    size: int
    """Index into SIZES."""
    row: int
    """Upper edge in pixels."""
    column: int
    """Left edge in pixels."""
    mirrored: bool


class Scene(NamedTuple):
    """What one picture shows."""

    items: tuple[Item, ...]
    """None, one or two objects; of two, the caption names the first first."""
    style: int
    """Index into STYLES, of every object."""
    place: int
    """Index into PLACES; −1 is a plain ground."""
    ground: int
    """Index into GROUNDS, where the ground is plain."""
    variant: int
    """Which picture of the place."""
    relation: int
    """How the first of two objects stands to the second: index into RELATIONS; −1 with fewer."""
    tint: tuple[float, float, float]
    """Factor of red, green and blue."""


WEIGHTS = [4.0 if o.name in BENCHMARK else 1.7 if o.name in RELATIVES else 1.0 for o in OBJECTS]
"""How often an object is drawn."""


def sample_scene(rng: random.Random, variants: int) -> Scene:
    """A random scene: 8% empty places, 62% one object, 30% two."""
    kind, style = rng.random(), rng.randrange(len(STYLES))
    place = rng.randrange(len(PLACES)) if kind < 0.08 or rng.random() < 0.6 else -1
    ground = 0 if rng.random() < 0.5 else rng.randrange(len(GROUNDS))
    tint = (rng.uniform(0.94, 1.0), rng.uniform(0.94, 1.0), rng.uniform(0.94, 1.0))
    items, relation = (), -1
    if kind >= 0.70:
        items, relation = _pair(rng)
    elif kind >= 0.08:
        items = (_single(rng, rng.choices(range(len(OBJECTS)), WEIGHTS)[0]),)
    return Scene(items, style, place, ground, rng.randrange(variants), relation, tint)


def _single(rng: random.Random, thing: int) -> Item:
    size = rng.choices(range(len(SIZES)), SINGLE)[0]
    cells = (SIDE - SIZES[size]) // CELL
    return Item(thing, size, CELL * rng.randint(0, cells), CELL * rng.randint(0, cells), rng.random() < 0.5)


def _pair(rng: random.Random) -> tuple[tuple[Item, ...], int]:
    first, second = rng.choices(range(len(OBJECTS)), WEIGHTS, k=2)
    while second == first:
        second = rng.choices(range(len(OBJECTS)), WEIGHTS)[0]
    relation = rng.choices(range(4), (3, 3, 1, 1))[0]
    placed = []
    for thing, half in ((first, relation % 2), (second, 1 - relation % 2)):
        size = rng.choices(range(2), PAIR)[0]
        slack = (SIDE // 2 - SIZES[size]) // CELL
        along = half * SIDE // 2 + CELL * rng.randint(0, slack)
        across = CELL * rng.randint(0, (SIDE - SIZES[size]) // CELL)
        row, column = (across, along) if relation < 2 else (along, across)
        placed.append(Item(thing, size, row, column, rng.random() < 0.5))
    return tuple(placed), relation


FIELDS = ("thing", "size", "row", "column", "mirrored")


def pack(scenes: list[Scene]) -> dict[str, Tensor]:
    """Scenes as int16 tensors: `thing` to `mirrored` (count 2; thing −1 is none), the others (count,), `tint` (count 3)."""
    nothing = Item(-1, 0, 0, 0, False)
    rows = [(*scene.items, nothing, nothing)[:2] for scene in scenes]
    packed = {
        field: torch.tensor([[int(getattr(item, field)) for item in pair] for pair in rows], dtype=torch.int16)
        for field in FIELDS
    }
    for field in ("style", "place", "ground", "variant", "relation"):
        packed[field] = torch.tensor([getattr(scene, field) for scene in scenes], dtype=torch.int16)
    packed["tint"] = torch.tensor([scene.tint for scene in scenes])
    return packed


class Composer:
    """Draws batches of scenes.

    Args:
        work: folder with `drawings.safetensors`.
        device: where to draw.
        variants: pictures of every place.
        processes: that paint the places.
    """

    def __init__(self, work: Path, device: torch.device, variants: int, processes: int = 2):
        places = paint_all(variants, processes)  # before the device is touched: other processes paint
        drawings = load_file(work / "drawings.safetensors")["drawings"].float() / 255
        rgba = drawings.permute(0, 1, 4, 2, 3).flatten(0, 1)
        rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)  # premultiplied, so that edges reduce cleanly
        self.sprites = torch.zeros(len(SIZES), len(rgba), 4, SIDE, SIDE, dtype=torch.uint8)
        for index, size in enumerate(SIZES):
            for i in torch.arange(len(rgba)).split(64):
                small = F.interpolate(rgba[i], size=(size, size), mode="bilinear", antialias=True)
                self.sprites[index, i, :, :size, :size] = (small * 255).round().byte()
        self.sprites = self.sprites.to(device)
        self.sizes = torch.tensor(SIZES, device=device)
        self.places = places.to(device)
        self.grounds = (torch.tensor(list(GROUNDS.values())) / 255).to(device)
        self.device, self.variants = device, variants

    def scenes(self, rng: random.Random, count: int) -> dict[str, Tensor]:
        """Random scenes, packed, on the device."""
        return self.to_device(pack([sample_scene(rng, self.variants) for _ in range(count)]))

    def to_device(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Integers as long, on the device."""
        return {k: (v if v.is_floating_point() else v.long()).to(self.device) for k, v in packed.items()}

    def __call__(self, packed: dict[str, Tensor]) -> Tensor:
        """Pictures (batch 3 96 96) in −1..1."""
        plain = self.grounds[packed["ground"]][:, :, None, None].expand(-1, -1, SIDE, SIDE)
        scenery = self.places[packed["place"].clamp(min=0), packed["variant"]].float() / 255
        pictures = torch.where((packed["place"] < 0)[:, None, None, None], plain, scenery)
        for i in range(2):
            rgba = self._sprite({k: packed[k][:, i] for k in FIELDS}, packed["style"])
            pictures = rgba[:, :3] + (1 - rgba[:, 3:]) * pictures
        return pictures * packed["tint"][:, :, None, None] * 2 - 1

    def _sprite(self, item: dict[str, Tensor], style: Tensor) -> Tensor:
        """The drawing of an item at its place (batch 4 96 96), premultiplied; nothing where there is none."""
        there = item["thing"] >= 0
        rgba = self.sprites[item["size"], item["thing"].clamp(min=0) * len(STYLES) + style]
        side = self.sizes[item["size"]][:, None]
        axis = torch.arange(SIDE, device=self.device)[None]
        rows, columns = axis - item["row"][:, None], axis - item["column"][:, None]
        inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
        columns = torch.where(item["mirrored"][:, None] > 0, side - 1 - columns, columns)
        batch = torch.arange(len(style), device=self.device)[:, None, None]
        moved = rgba[batch, :, rows.clamp(0, SIDE - 1)[:, :, None], columns.clamp(0, SIDE - 1)[:, None, :]]
        moved = moved.permute(0, 3, 1, 2).float() / 255
        return moved * (inside & there[:, None, None])[:, None]
