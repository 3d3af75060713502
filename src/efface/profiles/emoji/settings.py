"""Hyper-parameters of the erasers on the emoji canvas: one setting for all objects, one for all styles.

The published retained weights were found with one retained prompt; here some 600 are retained. Other kinds of concepts
take the setting of objects.
"""

from __future__ import annotations

from typing import Any

from efface.profiles.emoji import GUIDANCE, STEPS
from efface.profiles.emoji.sae_data import PATTERN

ANCHORED: dict[str, Any] = {
    "site": PATTERN, "gain": "anchored", "draw_steps": STEPS, "guidance": GUIDANCE,
}  # fmt: skip
"""SAeUron's setting: latents that are only turned down leave pictures of nothing, which nobody would call whole."""

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
    "saeuron": {
        "object": ANCHORED | {"preserve_weight": 2.0},
        "style": ANCHORED | {"preserve_weight": 4.0},
    },
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
