"""The canvas's sites and prompts for sparse autoencoders, and the pictures that its statistics are taken from."""

from __future__ import annotations

from efface.concepts.sample import Labelled
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES, caption

PATTERN = "unet.up_blocks.1.attentions.?.transformer_blocks.0.attn2"
SITES = (PATTERN.replace("?", "0"), PATTERN.replace("?", "1"))
"""The default sites, 8 x 8 positions of 128 channels: the two cross-attentions through which text decides the picture.

Given another prompt's output at these two, the canvas draws that prompt; at its five other cross-attentions, nothing
changes (docs/canvas.md). An erasure of objects or styles edits both.
"""


def all_captions() -> list[str]:
    """Every object in every style, and without one."""
    return [caption(thing.name, style) for thing in OBJECTS for style in (None, *STYLES)]


def labelled_pictures(seeds: int) -> tuple[list[Labelled], dict[str, str]]:
    """Every benchmark object in every style, `seeds` pictures each, with the kind of every concept they show."""
    pictures = [
        Labelled(caption(thing, style), (thing, style), 10_000 + seed)
        for thing in BENCHMARK
        for style in STYLES
        for seed in range(seeds)
    ]
    return pictures, dict.fromkeys(BENCHMARK, "object") | dict.fromkeys(STYLES, "style")
