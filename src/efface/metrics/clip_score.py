"""CLIP score (arXiv 2104.08718): how well pictures show their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor

from efface.errors import UsageError
from efface.io.weights import describe
from efface.judges.clip import Clip


class ClipScore:
    """How well pictures show their prompts.

    Args:
        clip: a loaded CLIP, or the path of its folder.
        form: "score" is 100 · max(cosine, 0), what tables print; "cosine" is the cosine itself.
    """

    def __init__(self, clip: Clip | str | Path, form: Literal["score", "cosine"] = "score"):
        self.clip = clip if isinstance(clip, Clip) else Clip(clip)
        self.form = form
        self.name = describe("clip-score", **self.clip.facts, form="100*max(cos,0)" if form == "score" else "cos")

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """One number a picture (batch); raises UsageError where there is not one prompt a picture."""
        if len(images) != len(prompts):
            raise UsageError(f"{len(images)} pictures came with {len(prompts)} prompts: give one prompt a picture.")
        cosine = (self.clip.images(images) * self.clip.texts(prompts)).sum(1)
        return 100 * cosine.clamp(min=0) if self.form == "score" else cosine
