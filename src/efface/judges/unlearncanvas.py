"""UnlearnCanvas's two judges, from the published files `style50.pth` and `style50_cls.pth` (arXiv 2402.11846).

Both are timm's `vit_large_patch16_224.augreg_in21k` with a head of 51 styles or 20 objects. The names of their state
dicts are those of `efface.judges.vit`, so they load without timm. Pictures are resized to 224 x 224 by bilinear
interpolation (antialiased), as the benchmark's own evaluation does, and their levels put into −1..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from efface.io.device import best_device
from efface.io.digest import digest
from efface.io.images import chunks, resize_square
from efface.io.weights import describe, fill, read_tensors
from efface.judges.base import Verdicts
from efface.judges.labels import UNLEARNCANVAS_OBJECTS, UNLEARNCANVAS_STYLES
from efface.judges.vit import VIT_LARGE, Shape, VisionTransformer

_FILES = {"style": "style50.pth", "object": "style50_cls.pth"}
_CLASSES = {"style": UNLEARNCANVAS_STYLES, "object": UNLEARNCANVAS_OBJECTS}
_BATCH = 16


class UnlearnCanvasJudge:
    """Names the style or the object of a picture of UnlearnCanvas.

    Args:
        what: "style" or "object".
        path: of the published file, or of its tensors in safetensors.
        shape: of the transformer; the published ones are large.
        device: the best one present by default.

    Raises:
        EffaceError: the file is missing or damaged, or is not that judge's.
    """

    detects: bool = False

    def __init__(
        self, what: Literal["style", "object"], path: str | Path, *, shape: Shape = VIT_LARGE, device: str | None = None
    ):
        path = Path(path)
        self.classes = _CLASSES[what]
        tensors = read_tensors(path)
        with torch.device("meta"):  # 300 million weights that the file replaces need not be drawn first
            self.net = VisionTransformer(shape, len(self.classes))
        expected = f"UnlearnCanvas's {what} judge ({_FILES[what]}: ViT-L/16 of timm, {len(self.classes)} classes)"
        fill(self.net, tensors, source=path, what=expected)
        self.side = shape.side
        self.device = best_device(device)
        self.net.to(self.device)
        self.name = describe(f"unlearncanvas-{what}", weights=digest(path), resize=f"bilinear-{shape.side}")

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        scores = torch.cat(
            [
                self.net((resize_square(batch, self.side, "bilinear") / 127.5 - 1).to(self.device)).softmax(1).cpu()
                for batch in chunks(images, _BATCH)
            ]
        )
        labels = tuple(self.classes[i] for i in scores.argmax(1).tolist())
        return Verdicts(labels, scores, torch.ones(len(images), dtype=torch.bool))
