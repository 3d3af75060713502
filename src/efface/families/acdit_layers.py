"""Layers of a block-wise autoregressive diffusion transformer (ACDiT, Hu et al., arXiv 2412.07720).

Every layer has two ways through: `forward` for noised tokens, which the noise level and the text modulate, and `read` for clean
ones. Hooks see noised tokens only: `read` calls no module, so that no edit of activations can make what is remembered of a
block disagree with the block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class KeyValue(NamedTuple):
    """What a layer's self-attention remembers of tokens."""

    key: Tensor
    """Normalised and rotated (batch heads tokens channels)."""
    value: Tensor
    """(batch heads tokens channels)."""

    def then(self, other: KeyValue) -> KeyValue:
        """These tokens and those after them."""
        return KeyValue(torch.cat([self.key, other.key], 2), torch.cat([self.value, other.value], 2))


class SelfAttention(nn.Module):
    """Attention with rotary positions and normalised queries and keys.

    Args:
        width: channels of a token.
        heads: of attention.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Linear(width, width)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads, eps=1e-6), nn.RMSNorm(width // heads, eps=1e-6)

    def forward(self, x: Tensor, angles: Tensor, before: KeyValue | None, mask: Tensor | None) -> Tensor:
        """Noised tokens (batch tokens width) that attend to what is remembered and to each other.

        Args:
            x: noised tokens.
            angles: of their positions (tokens channels/2), or of every picture's (batch 1 tokens channels/2).
            before: clean tokens.
            mask: true where a token is attended to, those before first (… tokens all).
        """
        query, own = self._rotated(self.to_q(x), self.to_k(x), self.to_v(x), angles)
        return self.to_out(self._attended(query, own, before, mask))

    def read(self, x: Tensor, angles: Tensor, before: KeyValue | None, mask: Tensor | None) -> tuple[Tensor, KeyValue]:
        """Clean tokens (batch tokens width), and what is to be remembered of them; arguments as of `forward`."""
        query, own = self._rotated(self.to_q.forward(x), self.to_k.forward(x), self.to_v.forward(x), angles)
        return self.to_out.forward(self._attended(query, own, before, mask)), own

    def _rotated(self, query: Tensor, key: Tensor, value: Tensor, angles: Tensor) -> tuple[Tensor, KeyValue]:
        query, key, value = (rearrange(x, "b n (h c) -> b h n c", h=self.heads) for x in (query, key, value))
        return rotated(self.norm_q(query), angles), KeyValue(rotated(self.norm_k(key), angles), value)

    @staticmethod
    def _attended(query: Tensor, own: KeyValue, before: KeyValue | None, mask: Tensor | None) -> Tensor:
        key, value = own if before is None else before.then(own)
        return rearrange(F.scaled_dot_product_attention(query, key, value, mask), "b h n c -> b n (h c)")


class CrossAttention(nn.Module):
    """Attention to text states.

    Args:
        width: channels of a token.
        text: channels of a text state.
        heads: of attention.
    """

    def __init__(self, width: int, text: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.to_k, self.to_v = nn.Linear(text, width, bias=False), nn.Linear(text, width, bias=False)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """What noised tokens (batch tokens width) read of text states (batch states text)."""
        states = (self.to_q(x), self.to_k(text), self.to_v(text))
        query, key, value = (rearrange(s, "b n (h c) -> b h n c", h=self.heads) for s in states)
        return self.to_out(rearrange(F.scaled_dot_product_attention(query, key, value), "b h n c -> b n (h c)"))


class FeedForward(nn.Module):
    """Two layers with GELU between them.

    Args:
        width: channels of a token.
        inner: channels between the layers.
    """

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Noised tokens (batch tokens width)."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))

    def read(self, x: Tensor) -> Tensor:
        """Clean tokens (batch tokens width)."""
        return self.down.forward(F.gelu(self.up.forward(x), approximate="tanh"))


class ACDiTBlock(nn.Module):
    """One layer of the transformer.

    Args:
        width: channels of a token.
        heads: of attention.
        text: channels of a text state.
        inner: channels inside the feed-forward layer.
    """

    def __init__(self, width: int, heads: int, text: int, inner: int):
        super().__init__()
        self.attn1 = SelfAttention(width, heads)
        self.attn2 = CrossAttention(width, text, heads)
        self.ff = FeedForward(width, inner)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Tensor, text: Tensor, level: Tensor, angles: Tensor, before: KeyValue | None, mask: Tensor | None
    ) -> Tensor:
        """Noised tokens (batch tokens width), of one block or of several.

        Args:
            x: noised tokens.
            text: text states (batch states text).
            level: embedding of each block's noise level (batch blocks width).
            angles: of positions, as of `SelfAttention`.
            before: clean tokens.
            mask: as of `SelfAttention`.
        """
        shift, scale, gate, shift_ff, scale_ff, gate_ff = over_blocks(self.modulation(F.silu(level)), x).chunk(6, -1)
        x = x + gate * self.attn1(normed(x) * (1 + scale) + shift, angles, before, mask)
        x = x + self.attn2(normed(x), text)
        return x + gate_ff * self.ff(normed(x) * (1 + scale_ff) + shift_ff)

    def read(self, x: Tensor, angles: Tensor, before: KeyValue | None, mask: Tensor | None) -> tuple[Tensor, KeyValue]:
        """Clean tokens (batch tokens width), and what is to be remembered of them; arguments as of `SelfAttention`."""
        attended, own = self.attn1.read(normed(x), angles, before, mask)
        x = x + attended
        return x + self.ff.read(normed(x)), own


def normed(x: Tensor) -> Tensor:
    """Tokens (batch tokens width) of mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def over_blocks(values: Tensor, tokens: Tensor) -> Tensor:
    """One vector a block (batch blocks channels), for each of its tokens (batch tokens channels)."""
    return values.repeat_interleave(tokens.shape[1] // values.shape[1], dim=1)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Channels (batch heads tokens channels), rotated in pairs by angles (… tokens channels/2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
