"""What differs between pipelines, one file a family; `family_of` is the only place that asks."""

from __future__ import annotations

from typing import Any

from efface.errors import EffaceError
from efface.families.base import Entry, Family, Projection
from efface.families.sdxl import StableDiffusionXL
from efface.families.unet import StableDiffusion

FAMILIES: tuple[type[Family], ...] = (StableDiffusionXL, StableDiffusion)
"""Tried in this order; the first that recognises a pipeline's components serves it."""

__all__ = ["FAMILIES", "Entry", "Family", "Projection", "family_of"]


def family_of(pipeline: Any) -> Family:
    """The family that serves `pipeline`; raises EffaceError when none does."""
    for family in FAMILIES:
        if family.serves(pipeline):
            return family(pipeline)
    raise EffaceError(
        f"{type(pipeline).__name__} is not a text-to-image model efface knows: expected a diffusers pipeline with a "
        "tokenizer, a CLIP text encoder and a UNet with cross-attention (Stable Diffusion 1.x, 2.x or XL)."
    )
