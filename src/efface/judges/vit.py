"""A vision transformer with the names of timm, so that its published state dicts load as they are (ViT, arXiv 2010.11929)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Shape(NamedTuple):
    """Size of a vision transformer."""

    width: int
    depth: int
    heads: int
    side: int = 224
    """Pixels of a picture."""
    patch: int = 16
    """Pixels of a patch's side; one token each."""


VIT_LARGE = Shape(1024, 24, 16)
"""timm's vit_large_patch16_224."""
_EPSILON = 1e-6  # timm's; torch's own default is 1e-5


class VisionTransformer(nn.Module):
    """Pre-norm blocks over patches and a class token, whose normalised state goes straight to the head."""

    def __init__(self, shape: Shape, classes: int):
        super().__init__()
        tokens = (shape.side // shape.patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, shape.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, shape.patch, shape.patch)})
        self.blocks = nn.Sequential(*[Block(shape.width, shape.heads) for _ in range(shape.depth)])
        self.norm = nn.LayerNorm(shape.width, _EPSILON)
        self.head = nn.Linear(shape.width, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (batch classes) of pictures in −1..1 (batch 3 side side)."""
        patches = rearrange(self.patch_embed["proj"](pixels), "batch width rows columns -> batch (rows columns) width")
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


class Block(nn.Module):
    """Attention and a perceptron of four times the width, each added to what it read normalised."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, _EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, _EPSILON)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(batch tokens width) to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Attention(nn.Module):
    """Self-attention of all tokens, queries, keys and values from one matrix."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch tokens width) to the same."""
        split = "batch tokens (part heads width) -> part batch heads tokens width"
        query, key, value = rearrange(self.qkv(x), split, part=3, heads=self.heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "batch heads tokens width -> batch tokens (heads width)"))
