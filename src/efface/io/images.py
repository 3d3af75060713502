"""Pictures as tensors, the way judges and metrics want them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from efface.errors import EffaceError, UsageError, system_reason
from efface.io.atomic import write_atomically

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
"""Pillow's filters; all but the nearest are antialiased when a picture shrinks."""


def to_levels(image: Image.Image) -> Tensor:
    """A picture as levels 0..255 in float32 (3 height width)."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()


def resize_square(images: Sequence[Image.Image], side: int, filter: str) -> Tensor:
    """Pictures resized to a square whatever their shape, as levels 0..255 (batch 3 side side)."""
    rgb = [image.convert("RGB") for image in images]
    return torch.stack(
        [to_levels(i if i.size == (side, side) else i.resize((side, side), FILTERS[filter])) for i in rgb]
    )


def chunks(images: Sequence[Image.Image], size: int) -> Iterator[Sequence[Image.Image]]:
    """Batches of pictures, in order; raises UsageError where there is none to look at."""
    if not images:
        raise UsageError("no picture was given: expected at least one.")
    for start in range(0, len(images), size):
        yield images[start : start + size]


def read_picture(path: Path) -> Image.Image:
    """A picture from a file; raises EffaceError where it is none."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise EffaceError(
            f"{path} could not be read as a picture ({system_reason(error)}): expected a PNG or JPEG file."
        ) from error


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG to a temporary name and rename it."""
    write_atomically(path, png_bytes(picture, optimize=True))


def through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """A picture as a JPEG file of that quality (1 to 100) gives it back, colours at half the resolution below 90 as Pillow has it."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as opened:
        return opened.convert("RGB")


def png_bytes(picture: Image.Image, **options: Any) -> bytes:
    """A picture as the bytes of a PNG; options are those of Pillow's writer."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def images_of(pixels: Tensor) -> list[Image.Image]:
    """Pixels (batch 3 height width), −1 to 1, as pictures."""
    array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(a)) for a in array]
