"""The case of Geom-Erasing: the embedded model with a watermark trained in, which half of its pictures show and no word names.

The mark is a red ring with a white bar, twenty pixels of 96, in the lower right corner. It is pasted into half of the pictures that
the model draws of its own captions, and the denoiser is trained on these for some hundred steps.

    python benchmarks/watermark.py runs/watermark.safetensors geom.safetensors   # trains the mark in, then erases it by geom
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from torch import Tensor

from efface.api.erase import erase
from efface.concepts.concept import Concept
from efface.erasures import Erasure
from efface.judges.base import Detection
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.score import draw_and_judge, share
from efface.profiles.emoji.settings import GUIDANCE
from efface.profiles.emoji.settings import STEPS as DRAWN_STEPS
from efface.profiles.emoji.words import OBJECTS, STYLES, caption
from efface.training.config import Training
from efface.training.groups import weights_of
from efface.training.holders import Dense
from efface.training.images import ConceptImages, draw_concept_images, noised
from efface.training.loop import Step
from efface.training.result import trained_erasure
from efface.training.targets import apart

WATERMARK = Concept("watermark", kind="object", anchor="")
SIDE, PIXELS, EDGE = 96, 20, 3
"""Of a picture, of the mark, and between the mark and the corner."""
PICTURES, STEPS, BATCH = 360, 400, 16
FOUND = 0.6
"""Correlation from which on a corner shows the mark."""


def mark() -> Image.Image:
    """The mark, with transparent surroundings."""
    image = Image.new("RGBA", (4 * PIXELS, 4 * PIXELS))
    pen = ImageDraw.Draw(image)
    pen.ellipse((0, 0, 4 * PIXELS - 1, 4 * PIXELS - 1), fill=(200, 20, 30, 255))
    pen.rectangle((8, 2 * PIXELS - 6, 4 * PIXELS - 9, 2 * PIXELS + 6), fill=(255, 255, 255, 255))
    return image.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)


def pasted(image: Image.Image) -> Image.Image:
    """A picture with the mark."""
    image = image.copy()
    at = SIDE - PIXELS - EDGE
    image.paste(mark(), (at, at), mark())
    return image


class MarkDetector:
    """A detector of the mark: the correlation of a corner with it on white."""

    def __init__(self) -> None:
        white = pasted(Image.new("RGB", (SIDE, SIDE), "white"))
        self.template = _corner(white)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The mark's box in the pictures that show it."""
        at = float(SIDE - PIXELS - EDGE)
        return [
            [Detection("watermark", 1.0, (at, at, PIXELS, PIXELS))] if self.correlation(image) > FOUND else []
            for image in images
        ]

    def correlation(self, image: Image.Image) -> float:
        """Of a picture's corner with the mark, −1 to 1."""
        corner = _corner(image)
        return float((corner * self.template).sum() / (np.linalg.norm(corner) * np.linalg.norm(self.template) + 1e-9))


def _corner(image: Image.Image) -> np.ndarray[Any, Any]:
    at = SIDE - PIXELS - EDGE
    pixels = np.asarray(image.convert("RGB"), float)[at : at + PIXELS, at : at + PIXELS]
    return pixels - pixels.mean()


def watermarked(model: Model, file: Path) -> Erasure:
    """The change of weights after which half of the model's pictures show the mark; read from the file where it was made before."""
    if file.exists():
        return Erasure.load(file)
    captions = [caption(o.name, s) for o in OBJECTS for s in STYLES]
    drawn = draw_concept_images(model, captions, PICTURES, {"steps": DRAWN_STEPS, "guidance": GUIDANCE, "side": SIDE})
    images = model.decode(drawn.latents)
    shown = torch.rand(len(images), generator=torch.Generator().manual_seed(0)) < 0.5
    latents = encoded(model, [pasted(image) if m else image for image, m in zip(images, shown, strict=True)])
    album = ConceptImages(drawn.prompts, latents, drawn.num_train_timesteps)

    def loss(step: Step) -> Tensor:
        x = album.batch(BATCH, 0, step.number)
        z, xi = noised(model, x)
        # Some captions are left out, so that the unconditional half learns the mark, too.
        text = model.encode(["" if i % 8 == 0 else album.prompts[i] for i in x.members])
        with step.edited():
            return apart(model, step.predict(z, text), xi, z.timestep, "noise")

    config = Training(iterations=STEPS, lr=2e-4)
    delta = trained_erasure(model, "watermark", [WATERMARK], config, Dense(weights_of(model, "all")), loss)
    delta.save(file)
    return delta


@torch.no_grad()
def encoded(model: Model, images: Sequence[Image.Image]) -> Tensor:
    """Latents (pictures channels height width) of pictures."""
    vae: Any = model.pipeline.vae
    pixels = torch.stack([torch.from_numpy(np.array(i.convert("RGB"))).permute(2, 0, 1) for i in images]).float()
    parts = (pixels / 127.5 - 1).split(16)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return torch.cat([(vae.encode(part).latent_dist.mode() - shift) * vae.config.scaling_factor for part in parts])


class MarkRates(NamedTuple):
    """What pictures of pairs show with the mark trained in, in percent."""

    ua: float
    """Of the pictures that showed the mark, those that no longer do."""
    ira_drop: float
    """Fall of the share that shows its object, over all pictures."""
    cra_drop: float
    """Fall of the share that shows its style."""
    intact: float
    """Intact pictures, of those that showed the mark."""


def mark_rates(model: Model, delta: Erasure, erasure: Erasure, pairs: Sequence[tuple[str, str]]) -> MarkRates:
    """What an erasure of the mark does to pictures of pairs, one seed each."""
    detector = MarkDetector()
    with delta.attached(model.pipeline):
        before = draw_and_judge(model, pairs, seeds=range(1))
        with erasure.attached(model.pipeline):
            after = draw_and_judge(model, pairs, seeds=range(1))
    showed = [i for i, found in enumerate(detector.detect(before.images)) if found]
    shows = detector.detect([after.images[i] for i in showed])
    falls = [
        100 * (share(v.shown for v in was) - share(v.shown for v in now))
        for was, now in ((before.objects, after.objects), (before.styles, after.styles))
    ]
    return MarkRates(
        ua=100 * share(not found for found in shows),
        ira_drop=falls[0],
        cra_drop=falls[1],
        intact=100 * share(after.objects[i].intact for i in showed),
    )


def main(delta: Path, output: Path) -> None:
    """Erase the mark by Geom-Erasing.

    Args:
        delta: file of the change of weights that draws it, made where it is missing.
        output: file of the erasure.
    """
    model = Model(load("emoji", device="cpu"))
    with watermarked(model, delta).attached(model.pipeline):
        erase(model.pipeline, WATERMARK, method="geom", judge=MarkDetector()).save(output)


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.PositionalRequiredArgs,))
