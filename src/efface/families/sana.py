"""Sana: a decoder-only language model's states through a caption projection and a norm, then cross-attention (arXiv 2410.10629)."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.families.base import Projection
from efface.families.layers import apply_without_hooks
from efface.families.networks import TextInput
from efface.families.pixart import can_clean, tidy_caption, without_variance
from efface.families.projections import cross_attentions
from efface.families.text import Text, TokenSpan
from efface.families.transformer import Transformer


class Sana(Transformer):
    """Keys and values read the normalised caption projection, and there the map acts.

    The pipeline puts an instruction before every prompt (not before the negative one) and drops its states, all but the
    begin token's and its last.
    """

    name = "sana"
    pipelines = ("SanaPipeline",)
    denoisers = ("SanaTransformer2DModel",)
    reads_padding = False
    timestep_argument = ("timestep", 2)

    def token_spans(self) -> list[TokenSpan]:
        tokenizer, encoder = self.tokenizer_and_encoder("text_encoder")
        length = self.default("max_sequence_length") or 300
        instruction = self._instruction()
        # Kept are the begin token and the last length − 1 positions, the first of which ends the instruction.
        begin = 2 if instruction else 1
        return [TokenSpan(tokenizer, encoder, length, begin=begin, end=0, before=instruction, clean=self._clean)]

    def _instruction(self) -> str:
        return "\n".join(self.default("complex_human_instruction") or [])

    def _clean(self, prompt: str) -> str:
        return tidy_caption(self.pipeline, prompt, bool(self.default("clean_caption")))

    def encode_prompts(self, prompts: list[str], *, instructed: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
        states, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device,
            max_sequence_length=self.default("max_sequence_length") or 300,
            clean_caption=bool(self.default("clean_caption")) and can_clean(),
            complex_human_instruction=self.default("complex_human_instruction") if instructed else None,
        )  # fmt: skip
        return states, None, mask.bool()

    def negative(self, prompt: str | None) -> Text:
        states, pooled, mask = self.encode_prompts([prompt or ""], instructed=False)
        last = torch.zeros(1, dtype=torch.long)
        cut = (self.token_spans()[0]._replace(before="", begin=1).truncated(prompt or ""),)
        return Text(states=states, pooled=pooled, mask=mask, last=last, truncated=cut)

    def text_inputs(self) -> tuple[TextInput, ...]:
        return (TextInput(self.network.caption_norm),)

    def projection_inputs(self, text: Text) -> Tensor:
        return apply_without_hooks(
            self.network.caption_norm, apply_without_hooks(self.network.caption_projection, text.states)
        )

    def to_timestep(self, value: Tensor) -> Tensor:
        return value / self.network.config.timestep_scale

    def projections(self) -> list[Projection]:
        return cross_attentions("transformer", self.network)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        if self.network.config.guidance_embeds:
            raise EffaceError(
                "this is SANA-Sprint, whose two-step sampler efface does not draw with: attach the erasure and call the pipeline."
            )
        dtype = self.network.dtype
        output = self.pipeline.transformer(
            latents.to(dtype), encoder_hidden_states=text.states.to(dtype), encoder_attention_mask=text.mask.long(),
            timestep=self.batch_timestep(timestep, latents) * self.network.config.timestep_scale, return_dict=False,
        )[0]  # fmt: skip
        return without_variance(output.float(), latents)

    def latent_dtype(self, states: Tensor) -> torch.dtype:
        return torch.float32
