"""Hyper-parameters of the erasers on the scenes: those of the emoji canvas, which were not searched here, on sites of its own."""

from __future__ import annotations

from typing import Any

from efface.profiles.emoji import settings as emoji

PATTERN = "unet.up_blocks.2.attentions.?.transformer_blocks.0.attn2"
SITES = (PATTERN.replace("?", "0"), PATTERN.replace("?", "1"))
"""Where autoencoders are trained, 12 x 12 positions of 128 channels; chosen as on the emoji canvas, not measured. None is embedded."""

_ON_LATENTS: dict[str, Any] = {"site": PATTERN, "coder": "scenes"}

SETTINGS: dict[str, dict[str, dict[str, Any]]] = emoji.SETTINGS | {
    method: {kind: options | _ON_LATENTS for kind, options in emoji.SETTINGS[method].items()}
    for method in ("anchored", "saeuron")
}
"""Method -> kind -> options."""
