"""LPIPS: how differently two pictures look (arXiv 1801.03924), with the trunk and the heads from files that a user brings.

The trunk's file is torchvision's state dict (`alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth`), the heads' file the
published one of version 0.1 (`alex.pth` or `vgg.pth` of the package lpips, whose names are `lin0.model.1.weight` to
`lin4.model.1.weight`). LPIPS_e of RECE is the mean over pairs of an erased artist, LPIPS_u over pairs of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from efface.errors import UsageError
from efface.io.device import best_device
from efface.io.digest import digest
from efface.io.images import chunks, resize_square, to_levels
from efface.io.weights import describe, fill, read_tensors

Network = Literal["alex", "vgg"]
_TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # the rectified outputs that are compared
_WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation, for −1..1
_TINY = 1e-10
_LEAST, _BATCH = 32, 16


class Lpips:
    """Distance of pairs of pictures: 0 for equal ones, larger for those that look different.

    Args:
        network: "alex", which tables of this field use, or "vgg".
        trunk: torchvision's state dict of AlexNet or VGG16; its classifier is ignored.
        heads: the five published 1 x 1 convolutions.
        side: resize to this square (bicubic, antialiased); None compares pictures as they are.
        device: the best one present by default.

    Raises:
        EffaceError: a file is missing, damaged, or not of this network.
    """

    def __init__(
        self,
        network: Network,
        trunk: str | Path,
        heads: str | Path,
        *,
        side: int | None = None,
        device: str | None = None,
    ):
        trunk, heads = Path(trunk), Path(heads)
        tensors = {
            name.removeprefix("features."): tensor
            for name, tensor in read_tensors(trunk).items()
            if not name.startswith("classifier.")
        }
        with torch.device("meta"):
            self.trunk = alexnet() if network == "alex" else vgg16()
            weights = nn.ModuleDict({f"lin{i}": _head(width) for i, width in enumerate(_WIDTHS[network])})
        title = "AlexNet" if network == "alex" else "VGG16"
        fill(self.trunk, tensors, source=trunk, what=f"torchvision's state dict of {title}")
        fill(weights, read_tensors(heads), source=heads, what=f"the five heads of LPIPS 0.1 for {title}")
        self.device = best_device(device)
        self.trunk.to(self.device)
        self.heads = [tensor.to(self.device) for tensor in weights.state_dict().values()]
        self.taps, self.side = _TAPS[network], side
        self.name = describe(
            f"lpips-{network}", trunk=digest(trunk), heads=digest(heads), resize=f"bicubic-{side}" if side else "none"
        )

    def __call__(self, images: Sequence[Image.Image], others: Sequence[Image.Image]) -> Tensor:
        """The distance of each pair, on the CPU (batch).

        Raises:
            UsageError: there is not one picture for each other, or sizes differ and `side` is not given.
        """
        if len(images) != len(others):
            raise UsageError(f"{len(images)} pictures came with {len(others)} others: give pairs.")
        pairs = zip(chunks(images, _BATCH), chunks(others, _BATCH), strict=True)
        return torch.cat([self.distance(self._pixels(a), self._pixels(b)) for a, b in pairs])

    @torch.no_grad()
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of each pair of pictures in −1..1 (batch 3 height width), on the CPU (batch)."""
        if x.shape != y.shape or min(x.shape[2:]) < _LEAST:
            raise UsageError(
                f"pictures of {_size(x)} and {_size(y)} cannot be compared: expected one size of at least {_LEAST} "
                "pixels a side; choose a side to resize to."
            )
        total = torch.zeros(len(x), device=self.device)
        for head, first, second in zip(self.heads, self._states(x), self._states(y), strict=True):
            total += ((first - second).square() * head).sum(1).mean((1, 2))
        return total.cpu()

    def _states(self, pixels: Tensor) -> list[Tensor]:
        """Unit vectors over channels at the five depths (batch width rows columns)."""
        shift, scale = (torch.tensor(v, device=self.device)[:, None, None] for v in (_SHIFT, _SCALE))
        hidden, states = (pixels.to(self.device) - shift) / scale, []
        for number, layer in enumerate(self.trunk):
            hidden = layer(hidden)
            if number in self.taps:
                states.append(hidden / (hidden.square().sum(1, keepdim=True).sqrt() + _TINY))
        return states

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        if self.side is not None:
            return resize_square(images, self.side, "bicubic") / 127.5 - 1
        if len(sizes := {image.size for image in images}) > 1:
            raise UsageError(f"pictures of {len(sizes)} different sizes came together: choose a side to resize to.")
        return torch.stack([to_levels(image) for image in images]) / 127.5 - 1


def alexnet() -> nn.Sequential:
    """AlexNet's convolutions up to the last rectifier, numbered as torchvision's `features`."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip


def vgg16() -> nn.Sequential:
    """VGG16's convolutions up to the last rectifier, numbered as torchvision's `features`."""
    layers: list[nn.Module] = []
    before = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [nn.MaxPool2d(2, 2)] if layers else []
        for _ in range(depth):
            layers += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU()]
            before = width
    return nn.Sequential(*layers)


def _head(width: int) -> nn.Module:
    """One head under its published name; the identity stands where training has dropout."""
    return nn.ModuleDict({"model": nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))})


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[3]} x {pixels.shape[2]}"
