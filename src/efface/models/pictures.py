"""Pictures in, latents out: what a model's autoencoder makes of pictures, and of its own estimates on the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from efface.errors import EffaceError
from efface.families.base import execution_device
from efface.io.images import to_levels
from efface.models.model import Model


def pixels_of(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as pixels in −1 to 1 (batch 3 height width)."""
    return torch.stack([to_levels(image) for image in images]) / 127.5 - 1


@torch.no_grad()
def compressed(model: Model, pixels: Tensor) -> Tensor:
    """Scaled latents (batch channels height width) of pixels in −1 to 1 (batch 3 height width), one picture at a time.

    Raises:
        EffaceError: the pipeline has no autoencoder.
    """
    vae = getattr(model.pipeline, "vae", None)
    if vae is None:
        raise EffaceError("the pipeline has no autoencoder, which reads pictures: load it with one.")
    device = execution_device(model.pipeline)
    return torch.cat([model.family.compress(one.to(device)) for one in pixels.split(1)])


@torch.no_grad()
def decompressed(model: Model, latents: Tensor) -> Tensor:
    """Pixels (batch 3 height width), about −1 to 1, of scaled latents, in float32, one picture at a time."""
    return torch.cat([model.family.decode(one).float() for one in latents.split(1)])
