"""Sites, prompts and labelled samples for sparse autoencoders of the emoji canvas."""

from __future__ import annotations

from efface.concepts.sample import SEEDS, Sample
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES, caption

PATTERN = "unet.up_blocks.1.attentions.?.transformer_blocks.0.attn2"
SITES = (PATTERN.replace("?", "0"), PATTERN.replace("?", "1"))
"""The default sites, 8 x 8 positions of 128 channels: the two cross-attentions through which text decides the picture.

Given another prompt's output at these two, the canvas draws that prompt; at its five other cross-attentions, nothing
changes (docs/canvas.md). An erasure of objects or styles edits both.
"""


def all_captions() -> list[str]:
    """Captions of every object in every style, and without a style."""
    return [caption(entry.name, style) for entry in OBJECTS for style in (None, *STYLES)]


def labelled_samples(seeds: int) -> tuple[list[Sample], dict[str, str]]:
    """Samples of every benchmark object in every style, `seeds` each, and the kind of every concept that they show."""
    pictures = [
        Sample(prompt=caption(name, style), seed=SEEDS.statistics + seed, shows=(name, style))
        for name in BENCHMARK
        for style in STYLES
        for seed in range(seeds)
    ]
    return pictures, dict.fromkeys(BENCHMARK, "object") | dict.fromkeys(STYLES, "style")
