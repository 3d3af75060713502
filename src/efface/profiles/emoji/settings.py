"""Hyper-parameters of the erasers on the emoji canvas: one setting for all objects, one for all styles.

The closed forms find their retained weight. Other kinds of concepts take the setting of objects.
"""

from __future__ import annotations

from typing import Any

from efface.io import embedded
from efface.profiles.emoji.sae_data import PATTERN

_SAMPLING = embedded.sampling("emoji")
STEPS: int = _SAMPLING["steps"]
"""Steps of the standard solver (DPM-Solver++)."""
GUIDANCE: float = _SAMPLING["guidance"]
"""Guidance scale of the standard solver, at which pictures of objects outside the benchmark show most of what they should."""

SAE_OPTIONS: dict[str, Any] = {"site": PATTERN, "draw_steps": STEPS, "guidance": GUIDANCE}
"""Options of the erasers that edit SAE latents: the three sites, and the sampling of the canvas."""

_ROLLING: dict[str, Any] = {"draw_steps": STEPS, "retain": 2.0}
_DRAWN: dict[str, Any] = _ROLLING | {"guidance": GUIDANCE, "images": 36}

TRAINED: dict[str, dict[str, Any]] = {
    "esd": _ROLLING | {"iterations": 140, "lr": 6e-4},
    "ca": _DRAWN | {"batch": 4, "iterations": 60, "lr": 3e-4},
    "sdd": _ROLLING | {"where": "text", "iterations": 140, "lr": 1e-3, "decay": 0.95, "retain": 3.0},
    "doco": _DRAWN | {"batch": 4, "iterations": 140, "warmup": 40, "lr": 3e-4, "retain": 10.0},
    "sculpting": _DRAWN | {"iterations": 160, "warmup": 10, "turn_every": 40, "lr": 2e-4, "retain": 4.0},
    "kpop": _ROLLING | {"iterations": 80, "lr": 5e-4},
    "spm": {"draw_steps": STEPS, "iterations": 120, "lr": 1e-2, "warmup": 10, "cycles": 1, "anchoring": 50.0},
    "hirm": {"retain": 1.0, "iterations": 15, "lr": 5e-4},
    "mace": {"images": 9, "draw_steps": 20, "iterations": 40, "lr": 1e-3, "ridge": 1.0},
    "receler": _ROLLING | {"iterations": 140, "rank": 32, "attack_steps": 2, "lr": 1e-3},
    "advunlearn": {
        "draw_steps": STEPS, "iterations": 220, "warmup": 20, "attack_steps": 5, "lr": 2e-4, "retain": 1.0, "eta": 0.0,
    },
    "stereo": _ROLLING | {
        "where": "text", "rounds": 1, "round_iterations": 40, "round_lr": 1e-3, "iterations": 200, "lr": 5e-4, "images": 9,
        "word_iterations": 60, "word_lr": 0.02, "retain": 3.0,
    },
    "aegis": _ROLLING | {"where": "cross", "iterations": 140, "lr": 6e-4},
    "eraseflow": _ROLLING | {
        "iterations": 100, "fresh": 30, "lr": 2e-3, "retain": 4.0, "early": 4, "late": 4, "together": 8, "guidance": 3.0,
    },
    "unsee": {
        "draw_steps": 12, "guidance": GUIDANCE, "images": 40, "retained_images": 120, "iterations": 240, "lr": 2e-3, "retain": 6.0,
        "forget": 0.15,
    },
}  # fmt: skip
"""Options of trained erasers: published learning rates are for networks seventy times as large. Tried on the tiger, the tractor and
the trumpet, `unsee` also on the tulip, `stereo` on the sailboat and the volcano, which no benchmark measures (docs/trained.md)."""

STYLED: dict[str, dict[str, Any]] = {
    "esd": {"where": "text", "lr": 1e-3},
    "ca": {"iterations": 100, "lr": 1e-3},
    "kpop": {"where": "text", "iterations": 160, "lr": 1e-3, "retain": 3.0},
    "hirm": {"iterations": 80, "lr": 2e-3, "retain": 4.0},
    "advunlearn": {"iterations": 60},
    "aegis": {"where": "text", "lr": 1e-3, "retain": 3.0},
    "unsee": {"forget": 0.05, "retained_images": 160, "words": 4, "word_steps": 1, "fresh": 6},
}
"""What differs for styles, tried on firefox, that of `unsee` on emojione too, which no benchmark of trained erasers measures; those of
`aegis`, which are `kpop`'s, and of `advunlearn` are untried."""

# crg: of strengths 2, 4, 8 and 16 tried on tiger, tractor, pineapple and trumpet.
# saeuron: of eight settings tried on tiger, pineapple, tractor and trumpet, objects that no benchmark measures.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "uce": {kind: {"rows": "subject", "ridge": 0.1} for kind in ("object", "style")},
    "rece": {kind: {"rows": "subject", "epochs": 1, "regulariser": 0.1} for kind in ("object", "style")},
    "anchored": {
        "object": SAE_OPTIONS | {"preserve_weight": 2.0},
        "style": SAE_OPTIONS | {"preserve_weight": 4.0},
    },
    "crg": {
        "object": {"draw_steps": STEPS, "guidance": GUIDANCE, "strength": 8.0},
        "style": {"draw_steps": STEPS, "guidance": GUIDANCE, "strength": 8.0},
    },
    "saeuron": {kind: SAE_OPTIONS | {"gain": "normalised", "gamma": -4.0, "count": 4} for kind in ("object", "style")},
} | {method: {"object": options, "style": options | STYLED.get(method, {})} for method, options in TRAINED.items()}

SAE_TRAINING: dict[str, Any] = {
    "latents": 2048,
    "k": 32,
    "multi_k": (16,),
    "rule": "topk",
    "steps": 1200,
    "passes": 3.0,
    "lr": 1e-3,
}
"""Options with which the canvas's own autoencoders were trained (recipe: `efface sae train emoji`)."""
SAE_TEXT_TRAINING: dict[str, Any] = {
    "latents": 2048,
    "k": 16,
    "steps": 800,
    "batch": 2048,
    "passes": 2.0,
    "lr": 1e-3,
}
"""Options for layers of the canvas's text encoder (`efface sae train emoji --site text_encoder`)."""
