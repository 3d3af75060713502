"""A block-wise autoregressive diffusion transformer (ACDiT, Hu et al., arXiv 2412.07720) that reads text by cross-attention.

The latents are cut into blocks, read in raster order. Noised tokens of block i attend to the clean tokens of the blocks
before it and to each other; clean tokens attend to clean tokens of their own block and of those before. Only the noised
stream is told the noise level and the text, so that keys and values of clean blocks depend on nothing but these blocks: what
is remembered of them is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from efface.families.acdit_layers import ACDiTBlock, KeyValue, normed, over_blocks
from efface.families.acdit_schedule import moment_of

ROTATION = 100.0
"""Longest wavelength of the rotary embedding, in patches over 2 π."""


@dataclass
class Context:
    """What the network remembers of the clean blocks of the pictures that it draws; it grows as they are drawn."""

    blocks: int = 0
    """Number of blocks that are remembered."""
    layers: list[KeyValue] = field(default_factory=list)
    """Of each layer; none before the first block."""


class ACDiTTransformer2DModel(ModelMixin, ConfigMixin):
    """The network: a block's velocity, given the text and the clean blocks before it.

    Args:
        sample_size: cells of a side of the latents.
        in_channels: of the latents.
        patch_size: cells of a side of a token.
        block_size: tokens of a side of a block.
        width: channels of a token.
        num_layers: of the transformer.
        num_attention_heads: their channels are a multiple of 4.
        cross_attention_dim: channels of a text state.
        inner: channels inside the feed-forward layers.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 12,
        in_channels: int = 16,
        patch_size: int = 2,
        block_size: int = 3,
        width: int = 192,
        num_layers: int = 6,
        num_attention_heads: int = 6,
        cross_attention_dim: int = 256,
        inner: int = 576,
    ):
        super().__init__()
        values, tokens = in_channels * patch_size**2, (sample_size // patch_size) ** 2
        self.blocks_a_side = sample_size // (patch_size * block_size)
        self.blocks = self.blocks_a_side**2
        self.noised_embed, self.clean_embed = nn.Linear(values, width), nn.Linear(values, width)
        self.position_embed = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embed = TimestepEmbedding(width, width)
        self.transformer_blocks = nn.ModuleList(
            [ACDiTBlock(width, num_attention_heads, cross_attention_dim, inner) for _ in range(num_layers)]
        )
        self.modulation_out, self.proj_out = nn.Linear(width, 2 * width), nn.Linear(width, values)
        for layer in (self.modulation_out, self.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angles = self._angles(width // num_attention_heads)
        self.register_buffer("angles", angles, persistent=False)

    def _angles(self, channels: int) -> Tensor:
        """Angles of every token's row and column (tokens channels/2)."""
        side = int(self.config["sample_size"]) // int(self.config["patch_size"])
        grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
        places = rearrange(grid, "x (r h) (c w) -> (r c h w) x", r=self.blocks_a_side, c=self.blocks_a_side)
        speeds = ROTATION ** -(torch.arange(channels // 4) / (channels // 4))
        return (places[:, :, None] * speeds).flatten(1)

    # Tokens

    def tokens_of(self, latents: Tensor) -> Tensor:
        """Latents (batch channels height width) as tokens (batch tokens values), block by block."""
        return rearrange(
            latents, "b c (r h p) (s w q) -> b (r s h w) (c p q)", r=self.blocks_a_side, s=self.blocks_a_side,
            p=self.config["patch_size"], q=self.config["patch_size"],
        )  # fmt: skip

    def latents_of(self, tokens: Tensor) -> Tensor:
        """`tokens_of` the other way."""
        return rearrange(
            tokens, "b (r s h w) (c p q) -> b c (r h p) (s w q)", r=self.blocks_a_side, s=self.blocks_a_side,
            h=self.config["block_size"], w=self.config["block_size"], p=self.config["patch_size"],
            q=self.config["patch_size"],
        )  # fmt: skip

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return int(self.config["block_size"]) ** 2

    def block_of_token(self) -> Tensor:
        """Block of every token of a picture (tokens,)."""
        return torch.arange(self.blocks, device=self.position_embed.device).repeat_interleave(self.block_tokens)

    # Passes

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor | float,
        context: Context | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Velocity, noise − clean, of the block of a timestep (batch channels height width); 0 in all others.

        Args:
            hidden_states: latents whose blocks before that one are clean (batch channels height width).
            encoder_hidden_states: text states (batch states text).
            timestep: of `efface.families.acdit_schedule`: one for all, or (batch,).
            context: what is remembered of these pictures' clean blocks; blocks that it lacks are added. Without one, all of
                them are read again, and pictures may be at different blocks.
            return_dict: whether an output class is returned or a tuple.

        Raises:
            ValueError: there is a context, and pictures are at different blocks.
        """
        tokens = self.tokens_of(hidden_states)
        timestep = torch.as_tensor(timestep, device=tokens.device).reshape(-1).expand(len(tokens))
        block, level = moment_of(timestep, self.blocks)
        if context is None:
            layers, mask = self._read_all(tokens), self._seen_from(block)
        else:
            if len(block.unique()) != 1:
                raise ValueError("pictures that share a context must be at the same block.")
            self.remember(tokens, int(block[0]), context)
            layers, mask = context.layers, None
        rows = block[:, None] * self.block_tokens + torch.arange(self.block_tokens, device=block.device)
        picked = rows[:, :, None].expand(-1, -1, tokens.shape[-1])
        noised = self.noised_embed(tokens.gather(1, picked)) + self.position_embed[rows]
        velocity = self._velocity(
            noised, encoder_hidden_states, level[:, None], self.angles[rows][:, None], layers, mask
        )
        output = self.latents_of(torch.zeros_like(tokens).scatter(1, picked, velocity.to(tokens.dtype)))
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def training_pass(self, clean: Tensor, noised: Tensor, levels: Tensor, text: Tensor) -> Tensor:
        """Velocities of all blocks at once (batch channels height width), each with the clean blocks before it.

        Args:
            clean: latents (batch channels height width).
            noised: the same, each block at its own level.
            levels: noise level of every block, 0 to 1000 (batch blocks).
            text: text states (batch states text).
        """
        block = self.block_of_token()
        tokens = self.noised_embed(self.tokens_of(noised)) + self.position_embed
        before, own = block[None, :] < block[:, None], block[None, :] == block[:, None]
        layers = self._read_all(self.tokens_of(clean))
        mask = torch.cat([before, own], 1)
        return self.latents_of(self._velocity(tokens, text, levels, self.angles, layers, mask))

    def remember(self, tokens: Tensor, blocks: int, context: Context) -> None:
        """Add the clean blocks that a context lacks, up to so many.

        Args:
            tokens: of whole pictures (batch tokens values).
            blocks: number of clean blocks.
            context: is changed.
        """
        for number in range(context.blocks, blocks):
            own = slice(number * self.block_tokens, (number + 1) * self.block_tokens)
            read = self._read(tokens[:, own], own, context.layers or None, None)
            context.layers = [a.then(b) for a, b in zip(context.layers, read, strict=True)] if context.layers else read
            context.blocks = number + 1

    def _read_all(self, tokens: Tensor) -> list[KeyValue]:
        """What each layer remembers of all blocks of clean tokens (batch tokens values)."""
        block = self.block_of_token()
        return self._read(tokens, slice(None), None, block[None, :] <= block[:, None])

    def _read(self, tokens: Tensor, own: slice, before: list[KeyValue] | None, mask: Tensor | None) -> list[KeyValue]:
        """What each layer remembers of clean tokens (batch tokens values), which stand at `own` among all."""
        x = self.clean_embed.forward(tokens) + self.position_embed[own]
        layers = []
        for index, layer in enumerate(self.transformer_blocks):
            x, remembered = layer.read(x, self.angles[own], None if before is None else before[index], mask)  # type: ignore[operator]
            layers.append(remembered)
        return layers

    def _seen_from(self, block: Tensor) -> Tensor:
        """Which tokens each picture's noised block attends to: all clean ones first, then itself (batch 1 tokens all)."""
        clean = self.block_of_token()[None] < block[:, None]
        seen = torch.cat([clean, clean.new_ones(len(block), self.block_tokens)], 1)
        return seen[:, None, None].expand(-1, 1, self.block_tokens, -1)

    def _velocity(
        self, x: Tensor, text: Tensor, levels: Tensor, angles: Tensor, layers: list[KeyValue], mask: Tensor | None
    ) -> Tensor:
        """Velocity of noised tokens (batch tokens values), of one block or of several with a level each (batch blocks)."""
        projected = rearrange(self.time_proj(levels.flatten()), "(b m) c -> b m c", b=len(levels))
        level = self.time_embed(projected.to(x.dtype))
        for index, layer in enumerate(self.transformer_blocks):
            x = layer(x, text, level, angles, layers[index] if layers else None, mask)
        shift, scale = over_blocks(self.modulation_out(F.silu(level)), x).chunk(2, -1)
        return self.proj_out(normed(x) * (1 + scale) + shift)
