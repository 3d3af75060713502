"""Pictures for judges: noise, and two photographs in the wheel of imageio 2.9 (extra `dev`), which is never imported."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_SPEC = find_spec("imageio")
_FOLDER = Path(_SPEC.submodule_search_locations[0]) / "resources/images" if _SPEC else Path("imageio")  # pyright: ignore

needed = pytest.mark.skipif(
    not (_FOLDER / "astronaut.png").exists(), reason="needs photographs: pip install imageio==2.9.0 (extra dev)"
)


def astronaut() -> Image.Image:
    """A woman's portrait, 512 x 512 (NASA, public domain)."""
    return Image.open(_FOLDER / "astronaut.png").convert("RGB")


def cat() -> Image.Image:
    """A cat, 451 x 300 (public domain)."""
    return Image.open(_FOLDER / "chelsea.png").convert("RGB")


def noise(count: int = 3, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    """Pictures of random colours, the same ones in every run."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(count)]
