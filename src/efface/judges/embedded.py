"""The judges that ship with an embedded model: which of its classes a picture shows, and whether it is intact."""

from __future__ import annotations

from collections.abc import Sequence
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

SIDE = 64
"""Pictures are judged at this size; others are resized by antialiased bicubic interpolation."""


class Features(NamedTuple):
    """What the network sees."""

    logits: Tensor
    """(batch classes + 1); the last class is debris, which training shows as noise, blanks and torn pictures."""
    features: Tensor
    """Unit vectors before the last layer (batch width)."""


class JudgeNet(nn.Module):
    """A small residual network of four stages, 64 px to one vector."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 128, 192)):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        stages = []
        for before, after in zip((widths[0], *widths[:-1]), widths, strict=True):
            stages.append(Stage(before, after, stride=1 if before == after else 2))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], classes + 1)

    def forward(self, pictures: Tensor) -> Features:
        """Logits and features of pictures in −1..1 (batch 3 64 64)."""
        hidden = self.stages(self.stem(pictures)).mean((2, 3))
        return Features(self.head(hidden), F.normalize(hidden, dim=1))


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


class EmbeddedJudge:
    """Names the class of a picture of an embedded model, of its objects or of its styles.

    `intact` compares the features with those of the real drawings: a picture is intact when its nearest real drawing
    is nearer than the threshold, which leaves in 99.5% of held-out reconstructions (recipe: `recipes.emoji.judges`),
    and when debris is not its most likely class.

    Args:
        what: which of the judges in the folder, such as "object" or "style".
        folder: with `WHAT.safetensors` of each judge, and `judges.json`.
    """

    detects: bool = False

    def __init__(self, what: str, folder: Path):
        path = folder / f"{what}.safetensors"
        if not path.exists():
            raise EffaceError(
                f"{path} is missing; expected an embedded model's judge: reinstall efface, or run its recipe."
            )
        figures = embedded.judge_figures(folder)[what]
        tensors = {name: t.float() for name, t in load_file(path).items()}
        self.classes: tuple[str, ...] = tuple(figures["classes"])
        self.prototypes = F.normalize(tensors.pop("prototypes"), dim=1)
        self.net = JudgeNet(len(self.classes))
        self.net.load_state_dict(tensors)
        self.net.eval()
        self.name = f"{figures['name']}-{figures['version']}"
        self.threshold: float = figures["threshold"]

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        seen = [self.net(batch) for batch in to_pixels(images).split(256)]
        scores = torch.cat([s.logits[:, :-1].softmax(1) for s in seen])
        distance = torch.cat([nearest(s.features, self.prototypes) for s in seen])
        labels = tuple(self.classes[i] for i in scores.argmax(1).tolist())
        debris = torch.cat([s.logits.argmax(1) for s in seen]) == len(self.classes)
        return Verdicts(labels, scores, (distance <= self.threshold) & ~debris)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors before the last layer (batch 192)."""
        return self.net(to_pixels(images)).features


def nearest(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine distance of unit vectors (batch width) to the nearest of the prototypes (count width)."""
    return 1 - (features @ prototypes.T).amax(1)


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Pictures as (batch 3 64 64) in −1..1."""
    resized = [i if i.size == (SIDE, SIDE) else i.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for i in images]
    array = np.stack([np.asarray(image.convert("RGB")) for image in resized])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1
