"""The emoji canvas: a small latent diffusion model embedded in the package, drawn by nine hands (see NOTICE)."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "embedded" / "emoji"
"""The pipeline's diffusers folder."""
STEPS = 12
"""Steps of the standard solver (DPM-Solver++); chosen by agreement with 100 DDIM steps, see docs/canvas.md."""
GUIDANCE = 3.0
"""Guidance of the standard solver."""


def is_canvas(pipeline: object) -> bool:
    """Whether a pipeline was loaded from the embedded folder."""
    name = getattr(getattr(pipeline, "config", None), "_name_or_path", "")
    return bool(name) and Path(name).resolve() == FOLDER.resolve()
