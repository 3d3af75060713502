"""Hyper-parameters of the erasers on the scenes: those of the emoji canvas, which were not searched here, on sites of its own."""

from __future__ import annotations

from typing import Any

from efface.io import embedded
from efface.profiles.emoji import settings as emoji

_SAMPLING = embedded.sampling("scenes")
STEPS, GUIDANCE = _SAMPLING["steps"], _SAMPLING["guidance"]
"""Steps and guidance scale of the standard solver (DPM-Solver++); guidance was chosen by pictures of objects outside the benchmark."""

PATTERN = "unet.*_blocks.1.attentions.?.transformer_blocks.0.attn2"
"""The three cross-attentions at 6 x 6 positions, of 160 channels, through which text decides the picture (docs/scenes.md)."""
SITES = tuple(
    f"unet.{block}.transformer_blocks.0.attn2"
    for block in ("down_blocks.1.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1")
)
"""Where autoencoders are trained; none is embedded."""

_DRAWN: dict[str, Any] = {"draw_steps": STEPS, "guidance": GUIDANCE}
_ON_LATENTS: dict[str, Any] = {"site": PATTERN, "coder": "scenes"} | _DRAWN
_OWN = {"anchored": _ON_LATENTS, "saeuron": _ON_LATENTS, "crg": _DRAWN}

SETTINGS: dict[str, dict[str, dict[str, Any]]] = emoji.SETTINGS | {
    method: {kind: options | own for kind, options in emoji.SETTINGS[method].items()} for method, own in _OWN.items()
}
"""Method -> kind -> options."""
