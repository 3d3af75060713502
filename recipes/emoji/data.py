"""Pictures from drawings: place an RGBA drawing on a coloured background, mirrored and shifted."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from efface.io import embedded
from efface.profiles.emoji.words import BACKGROUNDS, OBJECTS, STYLES, held_out

SIDE = 64
"""Side of a picture in pixels."""


def load_drawings(work: Path) -> Tensor:
    """Drawings as float RGBA in 0..1 (objects styles 4 height width)."""
    drawings = load_file(work / "drawings.safetensors")["drawings"]
    return rearrange(drawings.float() / 255, "objects styles height width rgba -> objects styles rgba height width")


def load_autoencoder(work: Path) -> AutoencoderKL:
    """The autoencoder trained here, or else the published one."""
    own = work / "autoencoder"
    return AutoencoderKL.from_pretrained(own if own.exists() else embedded.folder("emoji") / "vae").to(torch.float32)


def trained_pairs() -> Tensor:
    """Indices of the (object, style) pairs that are not held out (pairs 2)."""
    pairs = [(o, s) for o in range(len(OBJECTS)) for s in range(len(STYLES)) if not held_out(o, s)]
    return torch.tensor(pairs)


def background_colours() -> Tensor:
    """RGB in 0..1 (colours 3), in the order of BACKGROUNDS."""
    return torch.tensor(list(BACKGROUNDS.values())) / 255


def place(rgba: Tensor, colour: Tensor, row: Tensor, column: Tensor, mirror: Tensor) -> Tensor:
    """Pictures (batch 3 64 64) in −1..1 of drawings `rgba` (batch 4 56 56) on `colour` (batch 3).

    `row` and `column` are offsets of the upper left corner in pixels (0..8), `mirror` flips left and right.
    """
    batch, _, size, _ = rgba.shape
    rgba = torch.where(mirror[:, None, None, None], rgba.flip(-1), rgba)
    pictures = colour[:, :, None, None].expand(batch, 3, SIDE, SIDE).clone()
    alpha, ink = rgba[:, 3:], rgba[:, :3]
    for i in range(batch):
        window = pictures[i, :, row[i] : row[i] + size, column[i] : column[i] + size]
        window.copy_(alpha[i] * ink[i] + (1 - alpha[i]) * window)
    return pictures * 2 - 1
