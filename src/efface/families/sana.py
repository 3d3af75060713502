"""Sana: a decoder-only language model's states through a caption projection and a norm, then cross-attention (arXiv 2410.10629)."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.families.base import Projection
from efface.families.layers import passed_through
from efface.families.networks import Door
from efface.families.pixart import can_clean, cleaned, without_spread
from efface.families.projections import cross_attentions
from efface.families.text import Stream, Text
from efface.families.transformer import Transformer


class Sana(Transformer):
    """Keys and values read the normalised caption projection, and there the map acts.

    The pipeline puts an instruction before every prompt (not before the negative one) and drops its states, all but the
    begin token's and its last.
    """

    name = "sana"
    denoisers = ("SanaTransformer2DModel",)
    reads_padding = False
    timestep = ("timestep", 2)

    def streams(self) -> list[Stream]:
        tokenizer, encoder = self.loaded("text_encoder")
        length, instruction = self.default("max_sequence_length") or 300, self._instruction()
        # Kept are the begin token and the last length − 1 positions, the first of which ends the instruction.
        begin = 2 if instruction else 1
        return [Stream(tokenizer, encoder, length, begin=begin, end=0, before=instruction, clean=self._clean)]

    def _instruction(self) -> str:
        return "\n".join(self.default("complex_human_instruction") or [])

    def _clean(self, prompt: str) -> str:
        return cleaned(self.pipeline, prompt, bool(self.default("clean_caption")))

    def encoded(self, prompts: list[str], *, instructed: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
        states, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device,
            max_sequence_length=self.default("max_sequence_length") or 300,
            clean_caption=bool(self.default("clean_caption")) and can_clean(),
            complex_human_instruction=self.default("complex_human_instruction") if instructed else None,
        )  # fmt: skip
        return states, None, mask.bool()

    def negative(self, prompt: str | None) -> Text:
        states, pooled, mask = self.encoded([prompt or ""], instructed=False)
        return Text(states, pooled, mask, torch.zeros(1, dtype=torch.long), ("",))

    def doors(self) -> tuple[Door, ...]:
        return (Door(self.network.caption_norm),)

    def entering(self, text: Text) -> Tensor:
        return passed_through(self.network.caption_norm, passed_through(self.network.caption_projection, text.states))

    def to_level(self, given: Tensor) -> Tensor:
        return given / self.network.config.timestep_scale

    def projections(self) -> list[Projection]:
        return cross_attentions("transformer", self.network)

    def predict(self, latents: Tensor, level: Tensor, text: Text, guidance: float | None) -> Tensor:
        if self.network.config.guidance_embeds:
            raise EffaceError(
                "this is SANA-Sprint, whose two-step sampler efface does not draw with: attach the erasure and call the pipeline."
            )
        dtype = self.network.dtype
        output = self.pipeline.transformer(
            latents.to(dtype), encoder_hidden_states=text.states.to(dtype), encoder_attention_mask=text.mask.long(),
            timestep=self.at(level, latents) * self.network.config.timestep_scale, return_dict=False,
        )[0]  # fmt: skip
        return without_spread(output.float(), latents)

    def latent_dtype(self, states: Tensor) -> torch.dtype:
        return torch.float32
