"""FLUX.1 dev and schnell: T5 states and a pooled CLIP text, joint attention, guidance as an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from efface.families.base import Side, cells_of
from efface.families.schedule import set_shifted_sigmas
from efface.families.text import Text, TokenSpan, converted
from efface.families.transformer import JointTransformer

PATCH = "batch c (h p) (w q) -> batch (h w) (c p q)"
"""Latents as the transformer takes them: patches of 2 x 2 cells."""


class Flux(JointTransformer):
    """FLUX.1; text maps act on T5's states, and those that map pooled text on CLIP's vector."""

    name = "flux"
    pipelines = ("FluxPipeline",)
    denoisers = ("FluxTransformer2DModel",)
    encoders = ("text_encoder", "text_encoder_2")
    joint = ("transformer_blocks", "single_transformer_blocks")
    timestep_argument = ("timestep", 3)
    guided_calls = "apart"
    pooled_layer = "time_text_embed.text_embedder.linear_1"

    def token_spans(self) -> list[TokenSpan]:
        tokenizer, encoder = self.tokenizer_and_encoder("text_encoder_2")
        length = self.default("max_sequence_length") or 512
        return [TokenSpan(tokenizer, encoder, length, begin=0, clean=converted(self.pipeline, tokenizer))]

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        self.tokenizer_and_encoder("text_encoder")
        states, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.token_spans()[0].length
        )
        return states, pooled, self.masks(prompts, self.token_spans()).to(states.device)

    def to_timestep(self, value: Tensor) -> Tensor:
        return value.float() * 1000  # the transformer takes the noise's share, 0 to 1

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        height, width = (cells // 2 for cells in latents.shape[-2:])
        scale = None
        if self.network.config.guidance_embeds:
            scale = self.standard().guidance if guidance is None else guidance
            scale = torch.full((len(latents),), scale, device=latents.device, dtype=torch.float32)
        output = self.pipeline.transformer(
            hidden_states=rearrange(latents, PATCH, p=2, q=2),
            timestep=self.batch_timestep(timestep, latents).to(latents.dtype) / 1000,
            guidance=scale, pooled_projections=text.pooled, encoder_hidden_states=text.states,
            txt_ids=latents.new_zeros(text.states.shape[1], 3), img_ids=grid(height, width).to(latents),
            return_dict=False,
        )[0]  # fmt: skip
        return rearrange(output, "batch (h w) (c p q) -> batch c (h p) (w q)", h=height, w=width, p=2, q=2)

    def guidance_of_call(self, arguments: Mapping[str, Any]) -> float | None:
        return true_guidance(arguments)

    def guides(self, guidance: float) -> bool:
        return False  # guidance is an input

    def latent_shape(self, side: Side) -> tuple[int, int, int]:
        cells = cells_of(side, self.pipeline.default_sample_size, self.pipeline.vae_scale_factor, 2)
        return self.network.config.in_channels // 4, *cells

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        set_shifted_sigmas(scheduler, steps, latents.shape[-2] * latents.shape[-1] // 4, latents.device)


def true_guidance(arguments: Mapping[str, Any]) -> float | None:
    """Scale of the guidance that a pipeline does beside the one its network was distilled with, in a call with these arguments."""
    scale = arguments.get("true_cfg_scale") or 1.0
    negative = any(arguments.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds"))
    return float(scale) if scale > 1 and negative else None


def grid(height: int, width: int) -> Tensor:
    """Position of every patch (patches 3): nothing, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
