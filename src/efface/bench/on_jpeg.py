"""Pictures judged as JPEG files hold them: the public codes of benchmarks save files of quality 75 and judge those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from efface.io.images import through_jpeg
from efface.judges import Judge, Verdicts
from efface.metrics.features import Extractor


class JpegJudge:
    """A judge that looks at pictures through a JPEG file.

    Args:
        judge: what looks.
        quality: of the file, 1 to 100.
    """

    def __init__(self, judge: Judge, quality: int):
        self.judge = judge
        self.quality = quality
        self.name = f"{judge.name} jpeg={quality}"
        self.classes = judge.classes
        self.detects = judge.detects

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """The judge's verdicts."""
        return self.judge([through_jpeg(image, self.quality) for image in images])


class JpegFeatures:
    """Features of pictures as a JPEG file gives them back.

    Args:
        extract: takes the features.
        quality: of the file, 1 to 100.
    """

    def __init__(self, extract: Extractor, quality: int):
        self.extract = extract
        self.quality = quality
        self.name = f"{extract.name} jpeg={quality}"

    def __call__(self, images: Sequence[Image.Image]) -> Any:
        """The extractor's features."""
        return self.extract([through_jpeg(image, self.quality) for image in images])
