"""Stable Diffusion XL: two CLIP text encoders side by side, and a pooled text that enters beside the timestep."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from efface.families.base import unwrap
from efface.families.unet import StableDiffusion, execution_device


class StableDiffusionXL(StableDiffusion):
    """StableDiffusionXLPipeline and its relatives; text states are the two encoders' penultimate layers, concatenated."""

    name = "stable-diffusion-xl"

    @classmethod
    def serves(cls, pipeline: Any) -> bool:
        return getattr(pipeline, "text_encoder_2", None) is not None and super().serves(pipeline)

    def tokenizers(self) -> list[Any]:
        return [self.pipeline.tokenizer, self.pipeline.tokenizer_2]

    def text_encoders(self) -> dict[str, nn.Module]:
        return super().text_encoders() | {"text_encoder_2": unwrap(self.pipeline.text_encoder_2)}

    def encode(self, ids: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        device = execution_device(self.pipeline)
        encoders = (self.pipeline.text_encoder, self.pipeline.text_encoder_2)
        outputs = [encoder(i.to(device), output_hidden_states=True) for encoder, i in zip(encoders, ids, strict=True)]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return states, outputs[-1][0]

    def predict(self, latents: Tensor, level: Tensor, states: Tensor, pooled: Tensor | None) -> Tensor:
        side = 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        height, width = latents.shape[-2] * side, latents.shape[-1] * side
        # Original size, crop corner, target size: what the pipeline passes for an uncropped picture.
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=latents.dtype, device=latents.device)
        conditions = {"text_embeds": pooled, "time_ids": time_ids.expand(len(latents), -1)}
        unet = self.pipeline.unet
        return unet(latents, level, encoder_hidden_states=states, added_cond_kwargs=conditions, return_dict=False)[0]

    def zeroes_empty(self) -> bool:
        return bool(getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False))

    def uncovered(self) -> list[str]:
        return ["the pooled text beside the timestep", *super().uncovered()]
