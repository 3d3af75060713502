"""Pictures of latents, decoded few at a time."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from efface.families import Family
from efface.families.drawing import screened
from efface.io.images import images_of
from efface.models.batches import DECODED, in_batches


def pictures_of(family: Family, latents: Tensor, *, checked: bool) -> list[Image.Image]:
    """Pictures of scaled latents (batch channels height width); `checked` as of `Model.decode`."""

    def decode(chosen: slice) -> list[Image.Image]:
        pixels = family.decode(latents[chosen])
        return images_of(screened(family.pipeline, pixels, latents.device, checked=checked))

    shape = tuple(latents.shape[1:])
    size = max(1, DECODED // (shape[-2] * shape[-1]))
    parts = in_batches(family.networks()[0].module, "decoding", len(latents), shape, size, decode)
    return [picture for part in parts for picture in part]
