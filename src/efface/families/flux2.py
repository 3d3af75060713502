"""FLUX.2: layers of a language model side by side, joint attention; dev is guidance-distilled, klein may not be."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from einops import rearrange
from torch import Tensor

from efface.families.base import Side, cells_of, encoded
from efface.families.schedule import set_sigmas
from efface.families.text import Text, TokenSpan
from efface.families.transformer import JointTransformer

MARK = "@@prompt@@"


class Flux2(JointTransformer):
    """FLUX.2; the pipeline writes prompts into a chat template, and the map covers the whole sequence."""

    name = "flux-2"
    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")
    denoisers = ("Flux2Transformer2DModel",)
    joint = ("transformer_blocks",)
    timestep_argument = ("timestep", 2)
    guided_calls = "apart"

    def token_spans(self) -> list[TokenSpan]:
        tokenizer, encoder = self.tokenizer_and_encoder("text_encoder")
        words = getattr(tokenizer, "tokenizer", tokenizer)  # dev has a processor around it
        before, after = self._template(tokenizer)
        begin, end = (len(words(part, add_special_tokens=False).input_ids) for part in (before, after))
        length = self.default("max_sequence_length") or 512
        left = words.padding_side == "left"
        return [TokenSpan(words, encoder, length, begin=begin, end=end, before=before, pads_left=left)]

    def _template(self, tokenizer: Any) -> tuple[str, str]:
        """What stands before a prompt and after it."""
        if self.distilled_dev:
            texts = {"system": self.pipeline.system_message, "user": MARK}
            messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in texts.items()]
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
        else:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": MARK}], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        before, _, after = text.partition(MARK)
        return before, after

    @property
    def distilled_dev(self) -> bool:
        """Whether this is dev, which speaks to its encoder with a system message and takes guidance as an input."""
        return hasattr(self.pipeline, "system_message")

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        spans = self.token_spans()
        states, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=spans[0].length,
            text_encoder_out_layers=self.default("text_encoder_out_layers"),
        )  # fmt: skip
        return states, None, self.masks(prompts, spans).to(states.device)

    def to_timestep(self, value: Tensor) -> Tensor:
        return value.float() * 1000  # the transformer takes the noise's share, 0 to 1

    def guides(self, guidance: float) -> bool:
        return guidance > 1 and not self.distilled_dev and not self.pipeline.config.is_distilled

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        scale = None
        tokens = text.states.shape[1]
        if self.distilled_dev:
            scale = self.standard().guidance if guidance is None else guidance
            scale = torch.full((len(latents),), scale, device=latents.device, dtype=torch.float32)
        height, width = latents.shape[-2:]
        words = torch.cartesian_prod(*map(torch.arange, (1, 1, 1, tokens))).to(latents.device)
        cells = torch.cartesian_prod(*map(torch.arange, (1, height, width, 1))).to(latents.device)
        output = self.pipeline.transformer(
            hidden_states=rearrange(latents, "batch c h w -> batch (h w) c").to(self.network.dtype),
            timestep=self.batch_timestep(timestep, latents).to(latents.dtype) / 1000, guidance=scale,
            encoder_hidden_states=text.states, txt_ids=words, img_ids=cells, return_dict=False,
        )[0]  # fmt: skip
        return rearrange(output, "batch (h w) c -> batch c h w", h=height)

    def latent_shape(self, side: Side) -> tuple[int, int, int]:
        rows, columns = cells_of(side, self.pipeline.default_sample_size, self.pipeline.vae_scale_factor, 2)
        return self.network.config.in_channels, rows // 2, columns // 2

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        mu = compute_empirical_mu(image_seq_len=latents.shape[-2] * latents.shape[-1], num_steps=steps)
        set_sigmas(scheduler, steps, mu, latents.device)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mean, spread = (t.view(1, -1, 1, 1).to(latents) for t in (vae.bn.running_mean, vae.bn.running_var))
        latents = latents * torch.sqrt(spread + vae.config.batch_norm_eps) + mean
        pixels = rearrange(latents, "batch (c p q) h w -> batch c (h p) (w q)", p=2, q=2)
        return vae.decode(pixels.to(vae.dtype), return_dict=False)[0]

    def compress(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = rearrange(encoded(vae, pixels), "batch c (h p) (w q) -> batch (c p q) h w", p=2, q=2)
        mean, spread = (t.view(1, -1, 1, 1).to(latents) for t in (vae.bn.running_mean, vae.bn.running_var))
        return (latents - mean) / torch.sqrt(spread + vae.config.batch_norm_eps)
