"""A judge that needs no weights: the class of the nearest known picture, in small pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from efface.errors import UsageError
from efface.io.images import resize_square
from efface.judges.base import Verdicts

SIDE = 12
"""Pixels of a side at which pictures are compared: too few for what fools a network."""


class NearestPictureJudge:
    """Calls a picture what the nearest of some labelled pictures shows; a picture of the same number is left out.

    Args:
        images: of any size.
        labels: what each shows.

    Raises:
        UsageError: there is not one label for each picture, or fewer than two classes.
    """

    detects: bool = False

    def __init__(self, images: Sequence[Image.Image], labels: Sequence[str]):
        if len(images) != len(labels) or len(set(labels)) < 2:
            raise UsageError(
                f"{len(images)} pictures came with {len(labels)} labels of {len(set(labels))} classes: expected one for each, of "
                "two classes at least."
            )
        self.known = _small(images)
        self.labels = list(labels)
        self.classes = tuple(dict.fromkeys(labels))
        self.name = f"nearest-picture-1-{SIDE}-{len(images)}"

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        return self.judge_others(images, [None] * len(images))

    def judge_others(self, images: Sequence[Image.Image], numbers: Sequence[int | None]) -> Verdicts:
        """Judge pictures, each without the known picture of its number."""
        distances = torch.cdist(_small(images), self.known)
        for row, number in enumerate(numbers):
            if number is not None:
                distances[row, number] = torch.inf
        nearest = [self.labels[i] for i in distances.argmin(1).tolist()]
        scores = torch.tensor([[float(name == label) for name in self.classes] for label in nearest])
        return Verdicts(tuple(nearest), scores, torch.ones(len(images), dtype=torch.bool))


def _small(images: Sequence[Image.Image]) -> Tensor:
    """Pictures as rows of few pixels (batch values)."""
    return resize_square(images, SIDE, "bicubic").flatten(1)
