"""Sites, prompts and labelled samples for sparse autoencoders of the emoji canvas."""

from __future__ import annotations

from efface.concepts.sample import SEEDS, Sample
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, PLACES, STYLES, both, caption, empty_place

PATTERN = "unet.*_blocks.1.attentions.?.transformer_blocks.0.attn2"
SITES = tuple(
    f"unet.{block}.transformer_blocks.0.attn2"
    for block in ("down_blocks.1.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1")
)
"""The default sites, 6 x 6 positions of 160 channels: the three cross-attentions through which text decides the picture.

Given another prompt's output at all of the canvas's cross-attentions but these, nothing changes (docs/canvas.md).
"""


def all_captions() -> list[str]:
    """Captions of every object in every style and without one; of every object beside another in every style, at a place; and of
    every place alone."""
    objects, places = [entry.name for entry in OBJECTS], list(PLACES)
    alone = [caption(thing, style) for thing in objects for style in (None, *STYLES)]
    together = [
        both(thing, objects[(i + 5 * k + 7) % len(objects)], style, places[(i + 5 * k) % len(places)])
        for i, thing in enumerate(objects)
        for k, style in enumerate(STYLES)
    ]
    return [*alone, *together, *map(empty_place, places)]


def labelled_samples(seeds: int) -> tuple[list[Sample], dict[str, str]]:
    """Samples of every benchmark object in every style, `seeds` each, and the kind of every concept that they show."""
    pictures = [
        Sample(prompt=caption(name, style), seed=SEEDS.statistics + seed, shows=(name, style))
        for name in BENCHMARK
        for style in STYLES
        for seed in range(seeds)
    ]
    return pictures, dict.fromkeys(BENCHMARK, "object") | dict.fromkeys(STYLES, "style")
