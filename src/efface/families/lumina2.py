"""Lumina-Image 2.0: a language model's states through a norm and one linear layer, then joint attention (arXiv 2503.21758)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface.families.layers import apply_without_hooks
from efface.families.networks import TextInput
from efface.families.schedule import set_shifted_sigmas
from efface.families.text import Text, TokenSpan
from efface.families.transformer import JointTransformer


class Lumina2(JointTransformer):
    """The map acts between the norm and the linear layer; prompts stand behind a system prompt, negative ones do not."""

    name = "lumina-2"
    pipelines = ("Lumina2Pipeline",)
    denoisers = ("Lumina2Transformer2DModel",)
    text_layer = "time_caption_embed.caption_embedder.1"
    reads_padding = False
    guided_calls = "apart"
    output_sign = -1

    def token_spans(self) -> list[TokenSpan]:
        tokenizer, encoder = self.tokenizer_and_encoder("text_encoder")
        before = f"{self.default('system_prompt') or self.pipeline.system_prompt} <Prompt Start> "
        begin = len(tokenizer(before).input_ids)  # the begin token included
        length = self.default("max_sequence_length") or 256
        return [TokenSpan(tokenizer, encoder, length, begin=begin, end=0, before=before)]

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        states, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self._length
        )
        return states, None, mask.bool()

    @property
    def _length(self) -> int:
        return self.default("max_sequence_length") or 256

    def negative(self, prompt: str | None) -> Text:
        states, mask = self.pipeline._get_gemma_prompt_embeds([prompt or ""], self.device, self._length)
        last = torch.zeros(1, dtype=torch.long)
        cut = (self.token_spans()[0]._replace(before="", begin=1).truncated(prompt or ""),)
        return Text(states=states, pooled=None, mask=mask.bool(), last=last, truncated=cut)

    def text_inputs(self) -> tuple[TextInput, ...]:
        return (TextInput(self.network.time_caption_embed.caption_embedder[0]),)

    def projection_inputs(self, text: Text) -> Tensor:
        return apply_without_hooks(self.network.time_caption_embed.caption_embedder[0], text.states)

    def to_timestep(self, value: Tensor) -> Tensor:
        return (1 - value.float()) * 1000  # the transformer counts from 0 (noise) to 1 (picture)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        share = 1 - self.batch_timestep(timestep, latents) / self.pipeline.scheduler.config.num_train_timesteps
        return -self.pipeline.transformer(
            hidden_states=latents, timestep=share, encoder_hidden_states=text.states,
            encoder_attention_mask=text.mask.to(latents.device).long(), return_dict=False,
        )[0]  # fmt: skip

    def guide(self, unconditional: Tensor, conditional: Tensor, guidance: float) -> Tensor:
        combined = super().guide(unconditional, conditional, guidance)
        return combined * (conditional.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True))

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        # The pipeline takes the channels for the number of tokens; its checkpoints are sampled so.
        set_shifted_sigmas(scheduler, steps, latents.shape[1], latents.device)
