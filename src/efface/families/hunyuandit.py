"""HunyuanDiT: BERT and T5 states one after the other, then cross-attention (arXiv 2405.08748)."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from efface.families.base import Projection
from efface.families.layers import apply_without_hooks
from efface.families.networks import TextInput
from efface.families.pixart import without_variance
from efface.families.projections import cross_attentions
from efface.families.text import Text, TokenSpan
from efface.families.transformer import Transformer


class HunyuanDiT(Transformer):
    """Keys and values read BERT's states and T5's projected ones as one sequence, and there the map acts.

    `Text.states` holds both as they come, the narrower ones filled up with zeros.
    """

    name = "hunyuan-dit"
    pipelines = ("HunyuanDiTPipeline",)
    denoisers = ("HunyuanDiT2DModel",)
    encoders = ("text_encoder", "text_encoder_2")
    reads_padding = False
    takes_rows = False

    def token_spans(self) -> list[TokenSpan]:
        config = self.network.config
        bert = TokenSpan(*self.tokenizer_and_encoder("text_encoder"), config.text_len)
        return [
            bert,
            TokenSpan(
                *self.tokenizer_and_encoder("text_encoder_2"), config.text_len_t5, start=config.text_len, begin=0
            ),
        ]

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        states: list[Tensor] = []
        masks: list[Tensor] = []
        for index, span in enumerate(self.token_spans()):
            part, _, mask, _ = self.pipeline.encode_prompt(
                prompts, device=self.device, dtype=self.network.dtype, do_classifier_free_guidance=False,
                max_sequence_length=span.length, text_encoder_index=index,
            )  # fmt: skip
            states.append(part)
            masks.append(mask.bool())
        width = max(part.shape[-1] for part in states)
        padded = [torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in states]
        return torch.cat(padded, dim=1), None, torch.cat(masks, dim=1)

    def _split(self, text: Text) -> tuple[Tensor, Tensor]:
        """BERT's states and T5's, each in its own width."""
        config = self.network.config
        bert, t5 = text.states.split([config.text_len, config.text_len_t5], dim=1)
        return bert[..., : config.cross_attention_dim], t5[..., : config.cross_attention_dim_t5].contiguous()

    def text_inputs(self) -> tuple[TextInput, ...]:
        return tuple(TextInput(block, "encoder_hidden_states", 1) for block in self.network.blocks)

    def projection_inputs(self, text: Text) -> Tensor:
        bert, t5 = self._split(text)
        return torch.cat([bert, apply_without_hooks(self.network.text_embedder, t5)], dim=1)

    def projections(self) -> list[Projection]:
        return cross_attentions("transformer", self.network)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        config, device = self.network.config, latents.device
        bert, t5 = self._split(text)
        bert_mask, t5_mask = text.mask.to(device).long().split([config.text_len, config.text_len_t5], dim=1)
        height, width = (cells * self.pipeline.vae_scale_factor for cells in latents.shape[-2:])
        rows, columns = (cells // config.patch_size for cells in latents.shape[-2:])
        region = get_resize_crop_region_for_grid((rows, columns), 512 // 8 // config.patch_size)
        rotary = get_2d_rotary_pos_embed(
            self.network.inner_dim // self.network.num_heads, region, (rows, columns), device=device, output_type="pt"
        )
        original = self.default("original_size") or (1024, 1024)
        sizes = latents.new_tensor([[*original, height, width, 0, 0]]).repeat(len(latents), 1)
        timesteps = self.batch_timestep(timestep, latents).to(latents.dtype)
        output = self.pipeline.transformer(
            latents, timesteps, encoder_hidden_states=bert, text_embedding_mask=bert_mask,
            encoder_hidden_states_t5=t5, text_embedding_mask_t5=t5_mask, image_meta_size=sizes,
            style=torch.zeros(len(latents), dtype=torch.long, device=device), image_rotary_emb=rotary, return_dict=False,
        )[0]  # fmt: skip
        return without_variance(output, latents)

    def unmapped_inputs(self) -> list[str]:
        return ["T5's pooled text beside the timestep", *super().unmapped_inputs()]
