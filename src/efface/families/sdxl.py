"""Stable Diffusion XL, base and refiner: CLIP text encoders side by side, and a pooled text beside the timestep."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from efface.families.base import Network, execution_device, unwrap
from efface.families.networks import with_pooled
from efface.families.text import Text
from efface.families.unet import StableDiffusion, reads_text


class StableDiffusionXL(StableDiffusion):
    """StableDiffusionXLPipeline and its relatives; text states are the two encoders' penultimate layers, concatenated."""

    name = "stable-diffusion-xl"
    pipelines = ("StableDiffusionXLPipeline",)
    pooled_layer = "add_embedding.linear_1"
    encoders = ("text_encoder", "text_encoder_2")
    conditions: ClassVar[dict[str, Any]] = {"addition_embed_type": "text_time"}

    @classmethod
    def serves(cls, pipeline: Any) -> bool:
        return hasattr(pipeline, "text_encoder_2") and super().serves(pipeline)

    def encode(self, ids: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        self._readers()
        device = execution_device(self.pipeline)
        # The components themselves, not what torch.compile wraps.
        encoders = [getattr(self.pipeline, name) for name in self.text_encoders()]
        outputs = [encoder(i.to(device), output_hidden_states=True) for encoder, i in zip(encoders, ids, strict=True)]
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[-1][0]

    def negative(self, prompt: str | None) -> Text:
        empty = super().negative(prompt)
        if prompt is not None or not getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False):
            return empty
        pooled = None if empty.pooled is None else torch.zeros_like(empty.pooled)
        return empty._replace(states=torch.zeros_like(empty.states), pooled=pooled)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        conditions = {"text_embeds": text.pooled, "time_ids": self.sizes(latents, text)}
        return self.pipeline.unet(
            latents, timestep, encoder_hidden_states=text.states, timestep_cond=self.guidance_states(latents, guidance),
            added_cond_kwargs=conditions, return_dict=False,
        )[0]  # fmt: skip

    def sizes(self, latents: Tensor, text: Text) -> Tensor:
        """Original size, crop corner, target size (batch 6): what the pipeline passes for an uncropped picture."""
        height, width = (self.vae_scale() * cells for cells in latents.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=latents.dtype, device=latents.device)
        return sizes.expand(len(latents), -1)

    def decode(self, latents: Tensor) -> Tensor:
        mean, spread = self._normalisation(latents)
        pixels = super().decode(latents * spread + mean)
        mark = getattr(self.pipeline, "watermark", None)
        return pixels if mark is None else mark.apply_watermark(pixels)

    def compress(self, pixels: Tensor) -> Tensor:
        latents = super().compress(pixels)
        mean, spread = self._normalisation(latents)
        return (latents - mean) / spread

    def _normalisation(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of the scaled latents (1 channels 1 1), which Playground 2.5 alone has."""
        config = self.pipeline.vae.config
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return latents.new_zeros(1), latents.new_ones(1)
        mean, spread = (latents.new_tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return mean * config["scaling_factor"], spread

    def networks(self) -> list[Network]:
        return [
            with_pooled(network, self.pooled_layer, "added_cond_kwargs", "text_embeds")
            for network in super().networks()
        ]


class StableDiffusionXLRefiner(StableDiffusionXL):
    """The refiner: the second text encoder alone, and an aesthetic score in place of the target size."""

    name = "stable-diffusion-xl-refiner"
    pipelines = ("StableDiffusionXLImg2ImgPipeline",)
    encoders = ("text_encoder_2",)

    @classmethod
    def serves(cls, pipeline: Any) -> bool:
        encoder: Any = unwrap(getattr(pipeline, "text_encoder_2", None))
        if encoder is None or getattr(pipeline, "text_encoder", None) is not None or not reads_text(pipeline):
            return False
        return encoder.config.hidden_size == unwrap(pipeline.unet).config.cross_attention_dim

    def text(self, prompts: Any) -> Text:
        text = super().text(prompts)
        return text._replace(extra=self._score("aesthetic_score", 6.0).expand(len(prompts), 1))

    def negative(self, prompt: str | None) -> Text:
        return super().negative(prompt)._replace(extra=self._score("negative_aesthetic_score", 2.5))

    def sizes(self, latents: Tensor, text: Text) -> Tensor:
        sizes = super().sizes(latents, text)
        if not getattr(self.pipeline.config, "requires_aesthetics_score", False):
            return sizes
        score = self._score("aesthetic_score", 6.0) if text.extra is None else text.extra
        return torch.cat([sizes[:, :4], score.to(sizes).expand(len(sizes), 1)], dim=1)

    def _score(self, name: str, usual: float) -> Tensor:
        return torch.tensor([[self.default(name) or usual]])
