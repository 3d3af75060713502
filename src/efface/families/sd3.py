"""Stable Diffusion 3 and 3.5: two CLIP encoders side by side, T5 after them, joint attention (arXiv 2403.03206)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface.families.schedule import shift
from efface.families.text import Text, TokenSpan
from efface.families.transformer import JointTransformer


class StableDiffusion3(JointTransformer):
    """The token axis holds the CLIP encoders' states, concatenated and padded to T5's width, and then T5's."""

    name = "stable-diffusion-3"
    pipelines = ("StableDiffusion3Pipeline",)
    denoisers = ("SD3Transformer2DModel",)
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    joint = ("transformer_blocks",)
    timestep_argument = ("timestep", 3)
    pooled_layer = "time_text_embed.text_embedder.linear_1"

    def token_spans(self) -> list[TokenSpan]:
        clip, encoder = self.tokenizer_and_encoder("text_encoder")
        spans = [TokenSpan(clip, encoder, self.pipeline.tokenizer_max_length)]
        if getattr(self.pipeline, "text_encoder_3", None) is not None:
            t5, encoder = self.tokenizer_and_encoder("text_encoder_3")
            length = self.default("max_sequence_length") or 256
            spans.append(TokenSpan(t5, encoder, length, start=spans[0].length, begin=0))
        return spans

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        states, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=False
        )
        mask = self.masks(prompts, self.token_spans())
        # Without T5 its positions hold zeros.
        mask = torch.nn.functional.pad(mask, (0, states.shape[1] - mask.shape[1]))
        return states, pooled, mask.to(states.device)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        return self.pipeline.transformer(
            hidden_states=latents, timestep=self.batch_timestep(timestep, latents), encoder_hidden_states=text.states,
            pooled_projections=text.pooled, return_dict=False,
        )[0]  # fmt: skip

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        shifted = {}
        if scheduler.config.get("use_dynamic_shifting"):
            patch = self.network.config.patch_size
            tokens = (latents.shape[-2] // patch) * (latents.shape[-1] // patch)
            shifted["mu"] = shift(scheduler, tokens, 1.16)
        scheduler.set_timesteps(steps, device=latents.device, **shifted)
