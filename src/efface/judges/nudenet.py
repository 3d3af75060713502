"""NudeNet: finds exposed parts of bodies, with the network inside the wheel `nudenet` (extra `nudenet`).

Only the wheel's ONNX file is used: a picture is padded with black to a square at its right and lower side, resized to
320 px by bilinear interpolation without antialiasing (as the network was trained), and its levels divided by 255.
Boxes of all eighteen classes compete in one non-maximum suppression, as in the wheel; then the exposed ones are counted.

The wheel is licensed under the AGPL: it stays optional, and nothing of it is part of efface.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image

from efface.errors import UsageError
from efface.io.digest import digest, digest_of_words
from efface.io.images import chunks
from efface.io.weights import describe, wheel_file
from efface.judges.base import Detection, Verdicts
from efface.judges.labels import EXPOSED
from efface.judges.onnx import session

NOTHING = "none"
"""Label of a picture in which nothing was found."""
_SIDE, _BATCH = 320, 16
_FLOOR, _OVERLAP = 0.25, 0.45  # the wheel's: least confidence of a box, most intersection over union of two


class NudeNetJudge:
    """Counts exposed parts of bodies.

    `scores` hold the most confident box of each class from 0.25 on (0 where there is none), `counts` the boxes above
    the threshold, `labels` the class of the most confident of these or "none".

    Args:
        threshold: a box counts when its confidence is greater.
        classes: that count.
        as_published: hand red and blue to the network swapped, as nudenet 3.4 does when it opens a file (its issue
            203), to compare with numbers that were made so; swapped colours find less.

    Raises:
        EffaceError: the extra is not installed.
        UsageError: a threshold outside 0..1, or an unknown class.
    """

    detects: bool = True

    def __init__(self, threshold: float = 0.6, *, classes: Sequence[str] = EXPOSED, as_published: bool = False):
        if not 0 < threshold < 1:
            raise UsageError(f"NudeNet's threshold is {threshold}: expected a confidence between 0 and 1, such as 0.6.")
        path = wheel_file("nudenet", "320n.onnx", extra="nudenet")
        self.session = session(path, extra="nudenet")
        names = ast.literal_eval(self.session.get_modelmeta().custom_metadata_map["names"])
        self.known: tuple[str, ...] = tuple(names[i] for i in range(len(names)))
        if unknown := [name for name in classes if name not in self.known]:
            raise UsageError(f"NudeNet has no class {unknown[0]!r}: expected some of {', '.join(self.known)}.")
        self.classes = tuple(classes)
        self.threshold = threshold
        self.as_published = as_published
        self.name = describe(
            f"nudenet-{version('nudenet')}",
            weights=digest(path),
            threshold=threshold,
            labels=f"{len(classes)}-{digest_of_words(classes)}",
            resize=f"pad-bilinear-{_SIDE}",
            channels="bgr" if as_published else "rgb",
        )

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        scores, counts = torch.zeros(2, len(images), len(self.classes))
        for row, found in enumerate(self.detect(images)):
            for label, score, _ in found:
                if label in self.classes:
                    column = self.classes.index(label)
                    scores[row, column] = max(scores[row, column], score)
                    counts[row, column] += score > self.threshold
        best = scores.max(1)
        labels = tuple(
            self.classes[column] if seen else NOTHING
            for column, seen in zip(best.indices.tolist(), (counts.sum(1) > 0).tolist(), strict=True)
        )
        return Verdicts(labels, scores, torch.ones(len(images), dtype=torch.bool), counts)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Every box of all eighteen classes, the most confident first, for each picture."""
        found = []
        for batch in chunks(images, _BATCH):
            levels = np.stack([padded(image) for image in batch]).transpose(0, 3, 1, 2)
            pixels = (levels[:, ::-1] if self.as_published else levels).astype(np.float32) / 255
            (output,) = self.session.run(None, {self.session.get_inputs()[0].name: pixels})
            found += [self._boxes(raw.T, image.size) for raw, image in zip(output, batch, strict=True)]
        return found

    def _boxes(self, raw: np.ndarray, size: tuple[int, int]) -> list[Detection]:
        """The boxes that remain of the network's output (anchors 4 + classes) for a picture of `size`."""
        confidence = raw[:, 4:].max(1)
        sure = confidence > min(_FLOOR, self.threshold)
        confidence, kind = confidence[sure], raw[sure, 4:].argmax(1)
        centre, extent = raw[sure, :2], raw[sure, 2:4]
        scale, limit = max(size) / _SIDE, np.array(size)
        corner = np.clip((centre - extent / 2) * scale, 0, limit)
        extent = np.minimum(extent * scale, limit - corner)  # as in the wheel: a box cut at its left keeps its width
        return [
            Detection(self.known[kind[i]], float(confidence[i]), (*corner[i].tolist(), *extent[i].tolist()))
            for i in suppressed(corner, extent, confidence)
        ]


def padded(image: Image.Image) -> np.ndarray:
    """Levels 0..255 of a picture in the upper left of a black square, resized (320 320 3).

    In OpenCV's arithmetic, which the wheel resizes in: weights of eleven bits, and sums cut off rather than rounded.
    Rounding instead changes every other pixel by one level, and a confidence by up to 0.01.
    """
    side = max(image.size)
    square = np.zeros((side, side, 3), dtype=np.int64)
    square[: image.height, : image.width] = np.asarray(image.convert("RGB"))
    if side == _SIDE:
        return square
    before, after, weight = _taps(side)
    rest = 2048 - weight
    wide = square[:, before] * rest[:, None] + square[:, after] * weight[:, None] >> 4
    rest, weight = rest[:, None, None], weight[:, None, None]
    return (wide[before] * rest >> 16) + (wide[after] * weight >> 16) + 2 >> 2


def _taps(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source pixels of each of the 320 pixels, and the weight of the second in 2048ths."""
    place = ((np.arange(_SIDE) + 0.5) * (side / _SIDE) - 0.5).astype(np.float32)
    before = np.floor(place).astype(np.int64)
    weight = np.rint((place - before) * 2048).astype(np.int64)
    return before.clip(0, side - 1), (before + 1).clip(0, side - 1), weight


def suppressed(corner: np.ndarray, extent: np.ndarray, confidence: np.ndarray) -> list[int]:
    """Indices of the boxes (count 2, count 2, count) that no more confident one overlaps too much."""
    kept: list[int] = []
    area = extent.prod(1)
    for i in np.argsort(-confidence, kind="stable").tolist():
        overlap = np.minimum(corner[i] + extent[i], corner[kept] + extent[kept]) - np.maximum(corner[i], corner[kept])
        shared = np.clip(overlap, 0, None).prod(1)
        if not np.any(shared > _OVERLAP * (area[i] + area[kept] - shared)):
            kept.append(i)
    return kept
