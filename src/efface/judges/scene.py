"""The judge that ships with an embedded model: one network that says which objects a picture shows and where, in which style, at
which place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.io import embedded
from efface.judges.base import Verdicts

SIDE = 96
"""Pictures are judged at this size; others are resized by antialiased bicubic interpolation."""
WIDTHS = (32, 64, 128, 160, 160)
"""Channels at 48, 24, 12, 12 and 12 cells a side."""


class Cells(NamedTuple):
    """What the network sees."""

    objects: Tensor
    """Logits of every object at every cell (batch objects 12 12)."""
    styles: Tensor
    """Logits of every style at every cell (batch styles 12 12)."""
    features: Tensor
    """Unit vectors of every cell (batch width 12 12)."""
    places: Tensor
    """Logits of every place and plain ground (batch places)."""
    debris: Tensor
    """Logit of torn, smeared or half-drawn things anywhere (batch)."""


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


class SceneNet(nn.Module):
    """A small residual network, 96 px to 12 x 12 cells (recipe: `recipes.emoji.judges`).

    Args:
        objects: number of objects.
        styles: number of styles.
        places: number of places and plain grounds.
    """

    def __init__(self, objects: int, styles: int, places: int):
        super().__init__()
        a, b, c, d, width = WIDTHS
        self.stem = nn.Conv2d(3, a, 5, stride=2, padding=2)
        self.stages = nn.Sequential(Stage(a, b, 2), Stage(b, c, 2), Stage(c, d), Stage(d, width))
        self.objects, self.styles = nn.Conv2d(width, objects, 1), nn.Conv2d(width, styles, 1)
        self.places, self.debris = nn.Linear(2 * width, places), nn.Linear(2 * width, 1)

    def forward(self, pictures: Tensor) -> Cells:
        """What pictures in −1..1 (batch 3 96 96) show."""
        cells = self.stages(self.stem(pictures))
        whole = torch.cat([cells.mean((2, 3)), cells.amax((2, 3))], 1)
        return Cells(
            objects=self.objects(cells),
            styles=self.styles(cells),
            features=F.normalize(cells, dim=1),
            places=self.places(whole),
            debris=self.debris(whole)[:, 0],
        )


class Scene(NamedTuple):
    """What pictures show, summed over their cells."""

    presence: Tensor
    """Probability of every object (batch objects)."""
    styles: Tensor
    """Probability of every style at the likeliest object's cell (batch styles)."""
    places: Tensor
    """Probability of every place and plain ground (batch places)."""
    features: Tensor
    """Unit vector of the likeliest object's cell (batch width)."""
    debris: Tensor
    """Probability of debris (batch)."""


class SceneJudge:
    """Says of pictures which objects they show, or which style, or which place.

    A detector of objects: several may be there, or none. `intact` means no debris, and that the likeliest object, if one is
    there, looks like a real drawing of some object; a picture of nothing has no style that could be intact.

    Args:
        what: "object", "style" or "place".
        folder: with `judge.safetensors`, and `judges.json`, which holds the classes and limits of all three.
    """

    def __init__(self, what: str, folder: Path):
        figures = embedded.judge_figures(folder)
        self.what, self.detects = what, what == "object"
        self.classes: tuple[str, ...] = tuple(figures[what]["classes"])
        self.name = f"{figures[what]['name']}-{figures[what]['version']}"
        self.limits: dict[str, float] = figures["object"]["limits"]
        self.net, self.prototypes = _network(folder)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        scene = self._scene(images)
        shows = scene.presence.amax(1) > self.limits["presence"]
        like = (scene.features @ self.prototypes.T).amax(1) >= self.limits["likeness"]
        intact = (scene.debris <= self.limits["debris"]) & (like | ~shows)
        scores = {"object": scene.presence, "style": scene.styles, "place": scene.places}[self.what]
        labels = tuple(self.classes[i] for i in scores.argmax(1).tolist())
        if self.what == "object":
            return Verdicts(labels, scores, intact, (scores > self.limits["presence"]).long())
        return Verdicts(labels, scores, intact & shows if self.what == "style" else intact)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors of the likeliest object's cell (batch 160)."""
        return self._scene(images).features

    def logits(self, pixels: Tensor) -> Tensor:
        """Logit of every object (batch objects) of pictures in −1..1 (batch 3 96 96), with gradients."""
        return self.net(pixels).objects.amax((2, 3))

    def _scene(self, images: Sequence[Image.Image]) -> Scene:
        parts = [summed(self.net(batch)) for batch in to_pixels(images).split(128)]
        return Scene(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def summed(cells: Cells) -> Scene:
    """What the cells of pictures come to."""
    best, where = cells.objects.flatten(2).max(2)
    rows = torch.arange(len(best))
    likeliest = where[rows, best.argmax(1)]
    return Scene(
        presence=best.sigmoid(),
        styles=cells.styles.flatten(2)[rows, :, likeliest].softmax(1),
        places=cells.places.softmax(1),
        features=cells.features.flatten(2)[rows, :, likeliest],
        debris=cells.debris.sigmoid(),
    )


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Pictures as (batch 3 96 96) in −1..1."""
    resized = [i if i.size == (SIDE, SIDE) else i.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for i in images]
    array = np.stack([np.asarray(image.convert("RGB")) for image in resized])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


@lru_cache
def _network(folder: Path) -> tuple[SceneNet, Tensor]:
    """The network of a folder and the prototypes of its drawings (drawings width), loaded once for all three judges."""
    path, figures = folder / "judge.safetensors", embedded.judge_figures(folder)
    if not path.exists():
        raise EffaceError(
            f"{path} is missing; expected an embedded model's judge: reinstall efface, or run its recipe."
        )
    tensors = {name: t.float() for name, t in load_file(path).items()}
    prototypes = F.normalize(tensors.pop("prototypes"), dim=1)
    net = SceneNet(*(len(figures[what]["classes"]) for what in ("object", "style", "place")))
    net.load_state_dict(tensors)
    return net.eval(), prototypes
