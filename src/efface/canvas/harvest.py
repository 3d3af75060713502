"""The canvas's sites and prompts for sparse autoencoders, and the pictures that its statistics are taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface.canvas.words import BENCHMARK, OBJECTS, STYLES, caption

if TYPE_CHECKING:
    from efface.sae.features import Labelled

SITES = ("unet.up_blocks.1.attentions.0", "unet.up_blocks.1.attentions.1")
"""The default sites, 8 x 8 positions of 128 channels: the first for objects, the second for styles."""
SITE_OF = {"object": SITES[0], "style": SITES[1]}
"""Which of them an erasure edits, by the kind of concept; other kinds take that of objects."""


def all_captions() -> list[str]:
    """Every object in every style, and without one."""
    return [caption(thing.name, style) for thing in OBJECTS for style in (None, *STYLES)]


def labelled_pictures(seeds: int) -> tuple[list[Labelled], dict[str, str]]:
    """Every benchmark object in every style, `seeds` pictures each, with the kind of every concept they show."""
    from efface.sae.features import Labelled

    pictures = [
        Labelled(caption(thing, style), (thing, style), 10_000 + seed)
        for thing in BENCHMARK
        for style in STYLES
        for seed in range(seeds)
    ]
    return pictures, dict.fromkeys(BENCHMARK, "object") | dict.fromkeys(STYLES, "style")
