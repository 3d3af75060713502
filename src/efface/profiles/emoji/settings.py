"""Hyper-parameters of the erasers on the emoji canvas: one setting for all objects, one for all styles.

The closed forms find their retained weight. Other kinds of concepts take the setting of objects.
"""

from __future__ import annotations

from typing import Any

from efface.io import embedded
from efface.profiles.emoji.sae_data import PATTERN

_METADATA = embedded.read_metadata(embedded.folder("emoji")) or {}
STEPS: int = _METADATA["steps"]
"""Steps of the standard solver (DPM-Solver++); chosen by agreement with 100 DDIM steps, see docs/canvas.md."""
GUIDANCE: float = _METADATA["guidance"]
"""Guidance scale of the standard solver."""

SAE_OPTIONS: dict[str, Any] = {"site": PATTERN, "draw_steps": STEPS, "guidance": GUIDANCE}
"""Options of the erasers that edit SAE latents: both sites, and the sampling of the canvas."""

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "uce": {kind: {"rows": "subject", "ridge": 0.1} for kind in ("object", "style")},
    "rece": {kind: {"rows": "subject", "epochs": 1, "regulariser": 0.1} for kind in ("object", "style")},
    # Latents that are only suppressed (saeuron) leave pictures of nothing in particular, which the judges call broken.
    "anchored": {
        "object": SAE_OPTIONS | {"preserve_weight": 2.0},
        "style": SAE_OPTIONS | {"preserve_weight": 4.0},
    },
    "saeuron": {"object": SAE_OPTIONS, "style": SAE_OPTIONS},
}

SAE_TRAINING: dict[str, Any] = {
    "latents": 4096,
    "k": 32,
    "multi_k": (16,),
    "rule": "topk",
    "steps": 1600,
    "passes": 2.0,
    "lr": 1e-3,
}
"""Options with which the canvas's own autoencoders were trained (recipe: `efface sae train emoji`)."""
