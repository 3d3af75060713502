"""Brightness: whether a picture is bright or dark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from efface.errors import UsageError
from efface.registry import Opener

if TYPE_CHECKING:
    from PIL import Image

    from efface.judges import Verdicts


class BrightnessJudge:
    """Names a picture bright whose mean level is above a threshold.

    Args:
        threshold: between black (0) and white (1).
    """

    classes: tuple[str, ...] = ("dark", "bright")
    detects: bool = False

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold
        self.name = f"brightness-1 threshold={threshold:g}"

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        import numpy as np
        import torch

        from efface.judges import Verdicts

        means = torch.tensor([float(np.asarray(image.convert("L")).mean()) / 255 for image in images])
        labels = tuple(self.classes[int(mean > self.threshold)] for mean in means.tolist())
        intact = torch.ones(len(images), dtype=torch.bool)
        return Verdicts(labels=labels, scores=torch.stack([1 - means, means], dim=1), intact=intact)


def open_brightness(name: str, rest: str) -> BrightnessJudge:
    """The judge of `brightness` or `brightness:THRESHOLD`."""
    try:
        return BrightnessJudge(float(rest) if rest else 0.5)
    except ValueError as error:
        raise UsageError(f"the judge's threshold is {rest!r}: expected a number such as 0.5.") from error


OPENER = Opener("[:THRESHOLD]", open_brightness)
