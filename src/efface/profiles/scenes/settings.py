"""Hyper-parameters of the erasers on the scenes: one setting for all objects, one for all styles."""

from __future__ import annotations

from typing import Any

from efface.profiles.emoji.settings import GUIDANCE, STEPS, TRAINED

PATTERN = "unet.up_blocks.2.attentions.?.transformer_blocks.0.attn2"
SITES = (PATTERN.replace("?", "0"), PATTERN.replace("?", "1"))
"""Sites of the autoencoders, 12 x 12 positions of 128 channels."""

SAE_OPTIONS: dict[str, Any] = {"site": PATTERN, "draw_steps": STEPS, "guidance": GUIDANCE, "coder": "scenes"}
"""Options of the erasers that edit SAE latents."""

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "uce": {kind: {"rows": "subject", "ridge": 0.1} for kind in ("object", "style")},
    "rece": {kind: {"rows": "subject", "epochs": 1, "regulariser": 0.1} for kind in ("object", "style")},
    "anchored": {
        "object": SAE_OPTIONS | {"preserve_weight": 2.0},
        "style": SAE_OPTIONS | {"preserve_weight": 4.0},
    },
    "saeuron": {"object": SAE_OPTIONS, "style": SAE_OPTIONS},
} | {method: {"object": options, "style": options} for method, options in TRAINED.items()}
"""So far the emoji canvas's: they were not searched here."""

SAE_TRAINING: dict[str, Any] = {
    "latents": 4096,
    "k": 32,
    "multi_k": (16,),
    "rule": "topk",
    "steps": 1600,
    "passes": 2.0,
    "lr": 1e-3,
}
"""Options of the scenes' own autoencoders (`efface sae train scenes`)."""
