"""What differs between pipelines, one file a family; `family_of` is the only place that asks."""

from __future__ import annotations

from typing import Any

from efface.errors import EffaceError
from efface.families.base import Family, Network, Projection
from efface.families.flux import Flux
from efface.families.flux2 import Flux2
from efface.families.hunyuandit import HunyuanDiT
from efface.families.lumina2 import Lumina2
from efface.families.pixart import PixArt
from efface.families.qwenimage import QwenImage
from efface.families.sana import Sana
from efface.families.sd3 import StableDiffusion3
from efface.families.sdxl import StableDiffusionXL, StableDiffusionXLRefiner
from efface.families.unet import StableDiffusion
from efface.families.zimage import ZImage

FAMILIES: list[type[Family]] = [
    StableDiffusionXLRefiner, StableDiffusionXL, StableDiffusion, StableDiffusion3, Flux, Flux2, PixArt, Sana, Lumina2,
    HunyuanDiT, QwenImage, ZImage,
]  # fmt: skip
"""Tried in this order; the first that recognises a pipeline's components serves it."""

__all__ = ["FAMILIES", "Network", "Family", "Projection", "family_of", "register"]


def register(family: type[Family]) -> type[Family]:
    """Add a family of one's own, to be tried before the others; usable as a decorator."""
    FAMILIES.insert(0, family)
    return family


def family_of(pipeline: Any) -> Family:
    """The family that serves `pipeline`; raises EffaceError when none does."""
    for family in FAMILIES:
        if family.serves(pipeline):
            return family(pipeline)
    raise EffaceError(
        f"{type(pipeline).__name__} is not a text-to-image model efface knows ({_what(pipeline)}): expected a UNet with "
        "cross-attention and its text encoder, or a transformer of one of the families in docs/families.md, which also says "
        "how a family is added."
    )


def _what(pipeline: Any) -> str:
    """The components by which a pipeline was judged, in words."""
    components = getattr(pipeline, "components", None) or {}
    named = {n: type(components.get(n)).__name__ for n in ("unet", "transformer", "text_encoder") if components.get(n)}
    return (
        ", ".join(f"its {name} is a {kind}" for name, kind in named.items()) or "it has no denoiser and no text encoder"
    )
