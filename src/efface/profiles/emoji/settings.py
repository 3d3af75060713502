"""Hyper-parameters of the erasers on the emoji canvas: one setting for all objects, one for all styles.

The published retained weights were found with one retained prompt; here some 600 are retained. Other kinds of concepts
take the setting of objects.
"""

from __future__ import annotations

from typing import Any

from efface.io import embedded
from efface.profiles.emoji.sae_data import PATTERN

_SAID = embedded.read_metadata(embedded.folder("emoji")) or {}
STEPS: int = _SAID["steps"]
"""Steps of the standard solver (DPM-Solver++); chosen by agreement with 100 DDIM steps, see docs/canvas.md."""
GUIDANCE: float = _SAID["guidance"]
"""Guidance of the standard solver."""

LATENTS: dict[str, Any] = {"site": PATTERN, "draw_steps": STEPS, "guidance": GUIDANCE}
"""Of the erasers that edit latents: both sites, and pictures as the canvas draws them."""

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "uce": {
        "object": {"rows": "subject", "ridge": 0.1, "preserve_weight": 0.005},
        "style": {"rows": "subject", "ridge": 0.1, "preserve_weight": 0.02},
    },
    # After a strong first stage the derived embeddings are small, and an epoch with a small retained weight would move the
    # concept off its anchor again: the epochs retain more than the first stage does.
    "rece": {
        "object": {
            "rows": "subject",
            "epochs": 1,
            "regulariser": 0.1,
            "first_preserve_weight": 0.005,
            "preserve_weight": 1.0,
        },
        "style": {
            "rows": "subject",
            "epochs": 1,
            "regulariser": 0.1,
            "first_preserve_weight": 0.02,
            "preserve_weight": 1.0,
        },
    },
    # Latents that are only turned down (saeuron) leave pictures of nothing, which nobody would call whole.
    "anchored": {
        "object": LATENTS | {"preserve_weight": 2.0},
        "style": LATENTS | {"preserve_weight": 4.0},
    },
    "saeuron": {"object": LATENTS, "style": LATENTS},
}

CODERS: dict[str, Any] = {
    "latents": 4096,
    "k": 32,
    "multi_k": (16,),
    "rule": "topk",
    "steps": 1600,
    "passes": 2.0,
    "lr": 1e-3,
}
"""How the canvas's own autoencoders were trained (recipe: `efface sae train emoji`)."""
