"""Qwen-Image: a vision-language model's states through a norm and one linear layer, then joint attention (arXiv 2508.02324)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from efface.families.base import Side, Standard, cells_of, encoded
from efface.families.flux import PATCH, true_guidance
from efface.families.layers import apply_without_hooks
from efface.families.networks import TextInput
from efface.families.schedule import set_shifted_sigmas
from efface.families.text import Text, TokenSpan
from efface.families.transformer import JointTransformer


class QwenImage(JointTransformer):
    """The map acts between the norm and the linear layer; the template's first tokens are dropped by the pipeline."""

    name = "qwen-image"
    pipelines = ("QwenImagePipeline",)
    denoisers = ("QwenImageTransformer2DModel",)
    text_layer = "txt_in"
    joint = ("transformer_blocks",)
    timestep_argument = ("timestep", 3)
    guided_calls = "apart"
    reads_padding = False

    def token_spans(self) -> list[TokenSpan]:
        tokenizer, encoder = self.tokenizer_and_encoder("text_encoder")
        before, after = self.pipeline.prompt_template_encode.split("{}")
        begin, end = (len(tokenizer(part, add_special_tokens=False).input_ids) for part in (before, after))
        begin -= self.pipeline.prompt_template_encode_start_idx
        length = self.default("max_sequence_length") or 512
        return [TokenSpan(tokenizer, encoder, length, begin=begin, end=end, before=before)]

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        states, mask = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.default("max_sequence_length") or 512
        )
        return states, None, torch.ones_like(states[..., 0], dtype=torch.bool) if mask is None else mask.bool()

    def negative(self, prompt: str | None) -> Text:
        # The pipeline guides only where a negative prompt is given; a blank is what its authors give.
        return self.text([" " if prompt is None else prompt])

    def text_inputs(self) -> tuple[TextInput, ...]:
        return (TextInput(self.network.txt_norm),)

    def projection_inputs(self, text: Text) -> Tensor:
        return apply_without_hooks(self.network.txt_norm, text.states)

    def to_timestep(self, value: Tensor) -> Tensor:
        return value.float() * 1000  # the transformer takes the noise's share, 0 to 1

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        height, width = (cells // 2 for cells in latents.shape[-2:])
        output = self.pipeline.transformer(
            hidden_states=rearrange(latents, PATCH, p=2, q=2),
            timestep=self.batch_timestep(timestep, latents).to(latents.dtype) / 1000,
            encoder_hidden_states_mask=None if text.mask.all() else text.mask.to(latents.device),
            encoder_hidden_states=text.states, img_shapes=[[(1, height, width)]] * len(latents), return_dict=False,
        )[0]  # fmt: skip
        return rearrange(output, "batch (h w) (c p q) -> batch c (h p) (w q)", h=height, p=2, q=2)

    def guidance_of_call(self, arguments: Mapping[str, Any]) -> float | None:
        return true_guidance(arguments)

    def guide(self, unconditional: Tensor, conditional: Tensor, guidance: float) -> Tensor:
        combined = super().guide(unconditional, conditional, guidance)
        before, after = (_patch_norms(part) for part in (conditional, combined))
        return combined * (before / after)

    def standard(self) -> Standard:
        return super().standard()._replace(guidance=float(self.default("true_cfg_scale") or 4.0))

    def latent_shape(self, side: Side) -> tuple[int, int, int]:
        cells = cells_of(side, self.pipeline.default_sample_size, self.pipeline.vae_scale_factor, 2)
        return self.network.config.in_channels // 4, *cells

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        set_shifted_sigmas(scheduler, steps, latents.shape[-2] * latents.shape[-1] // 4, latents.device)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mean, spread = (torch.tensor(v).view(1, -1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        latents = latents.to(vae.dtype)
        latents = latents * spread.to(latents) + mean.to(latents)
        return vae.decode(latents[:, :, None], return_dict=False)[0][:, :, 0]

    def compress(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = encoded(vae, pixels[:, :, None])[:, :, 0]
        mean, spread = (torch.tensor(v).view(1, -1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        return (latents - mean.to(latents)) / spread.to(latents)


def _patch_norms(latents: Tensor) -> Tensor:
    """The norm of every patch of 2 x 2 cells over all channels, at each of its cells (batch 1 height width)."""
    norms = torch.norm(rearrange(latents, PATCH, p=2, q=2), dim=-1, keepdim=True)
    height = latents.shape[-2] // 2
    return rearrange(norms.expand(-1, -1, 4), "batch (h w) (p q) -> batch 1 (h p) (w q)", h=height, p=2, q=2)
