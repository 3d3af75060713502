"""What differs between pipelines, one file a family; `family_of` is the only place that asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from efface.errors import EffaceError
from efface.families.base import Family, Network, Projection
from efface.plugins import complain
from efface.registry import Registry

FAMILIES: Registry[type[Family]] = Registry(
    "family",
    "efface.families",
    {
        "stable-diffusion-xl-refiner": "efface.families.sdxl:StableDiffusionXLRefiner",
        "stable-diffusion-xl": "efface.families.sdxl:StableDiffusionXL",
        "stable-diffusion": "efface.families.unet:StableDiffusion",
        "stable-diffusion-3": "efface.families.sd3:StableDiffusion3",
        "flux": "efface.families.flux:Flux",
        "flux-2": "efface.families.flux2:Flux2",
        "pixart": "efface.families.pixart:PixArt",
        "sana": "efface.families.sana:Sana",
        "lumina-2": "efface.families.lumina2:Lumina2",
        "hunyuan-dit": "efface.families.hunyuandit:HunyuanDiT",
        "qwen-image": "efface.families.qwenimage:QwenImage",
        "z-image": "efface.families.zimage:ZImage",
        "acdit": "efface.families.acdit:ACDiT",
    },
    contract=Family,
)
"""Plugins' families are tried before these, which are tried in this order; the first that serves a pipeline has it."""
REGISTERED: list[type[Family]] = []
"""Families of one's own, tried before all others."""

__all__ = ["FAMILIES", "Family", "Network", "Projection", "family_of", "register"]


def register(family: type[Family]) -> type[Family]:
    """Add a family of one's own, to be tried before the others; usable as a decorator."""
    REGISTERED.insert(0, family)
    return family


def family_of(pipeline: Any) -> Family:
    """The family that serves `pipeline`; raises EffaceError when none does."""
    for family in (*REGISTERED, *_plugins()):
        if family.serves(pipeline):
            return family(pipeline)
    for name in FAMILIES.builtin:
        family = FAMILIES.load_builtin(name)
        if family.serves(pipeline):
            return family(pipeline)
    raise EffaceError(
        f"{type(pipeline).__name__} is not a text-to-image model efface knows ({_what(pipeline)}): expected a UNet with "
        "cross-attention and its text encoder, or a transformer of one of the families in docs/families.md, which also says "
        "how a family is added."
    )


def _plugins() -> Iterator[type[Family]]:
    """Families of plugins; one that cannot be loaded, or has another's name, is a line on standard error."""
    for name in FAMILIES.names():
        try:
            family = None if FAMILIES.origin(name) is None else FAMILIES.load(name)
        except EffaceError as error:
            complain(str(error))
            continue
        if family is not None:
            yield family


def _what(pipeline: Any) -> str:
    """The components by which a pipeline was judged, in words."""
    components = getattr(pipeline, "components", None) or {}
    named = {n: type(components.get(n)).__name__ for n in ("unet", "transformer", "text_encoder") if components.get(n)}
    return (
        ", ".join(f"its {name} is a {kind}" for name, kind in named.items()) or "it has no denoiser and no text encoder"
    )
