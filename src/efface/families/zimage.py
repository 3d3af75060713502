"""Z-Image: a language model's states through a norm and one linear layer, then one joint sequence (arXiv 2511.22699)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from efface.families.base import Side, cells_of
from efface.families.layers import apply_without_hooks
from efface.families.networks import TextInput
from efface.families.schedule import set_shifted_sigmas
from efface.families.text import Text, TokenSpan
from efface.families.transformer import JointTransformer

MARK = "@@prompt@@"


class ZImage(JointTransformer):
    """The map acts between the norm and the linear layer; prompts have no padding, each its own length."""

    name = "z-image"
    pipelines = ("ZImagePipeline",)
    denoisers = ("ZImageTransformer2DModel",)
    text_layer = "cap_embedder.1"
    reads_padding = False
    guided_calls = "positive-first"
    output_sign = -1
    timestep_argument = ("t", 1)

    def token_spans(self) -> list[TokenSpan]:
        tokenizer, encoder = self.tokenizer_and_encoder("text_encoder")
        messages = [{"role": "user", "content": MARK}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=True)
        before, _, after = text.partition(MARK)
        begin, end = (len(tokenizer(part, add_special_tokens=False).input_ids) for part in (before, after))
        length = self.default("max_sequence_length") or 512
        return [TokenSpan(tokenizer, encoder, length, begin=begin, end=end, before=before)]

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        rows, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False,
            max_sequence_length=self.default("max_sequence_length") or 512,
        )  # fmt: skip
        states = pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=states.device)
        return states, None, torch.arange(states.shape[1], device=states.device) < lengths[:, None]

    def text_inputs(self) -> tuple[TextInput, ...]:
        return (TextInput(self.network.cap_embedder[0]),)

    def projection_inputs(self, text: Text) -> Tensor:
        return apply_without_hooks(self.network.cap_embedder[0], text.states)

    def to_timestep(self, value: Tensor) -> Tensor:
        return (1 - value.float()) * 1000  # the transformer counts from 0 (noise) to 1 (picture)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        states = [rows[inside] for rows, inside in zip(text.states, text.mask.to(text.states.device), strict=True)]
        pictures = list(latents.to(self.network.dtype)[:, :, None].unbind())
        share = (1000 - self.batch_timestep(timestep, latents)) / 1000
        output = self.pipeline.transformer(pictures, share, states, return_dict=False)[0]
        return -torch.stack([part.float() for part in output])[:, :, 0]

    def guides(self, guidance: float) -> bool:
        return guidance > 0

    def weight_of_prompt(self, guidance: float) -> float:
        return 1 + guidance

    def guide(self, unconditional: Tensor, conditional: Tensor, guidance: float) -> Tensor:
        return conditional + guidance * (conditional - unconditional)

    def latent_dtype(self, states: Tensor) -> torch.dtype:
        return torch.float32

    def latent_shape(self, side: Side) -> tuple[int, int, int]:
        return self.network.in_channels, *cells_of(side, self.cells(), self.pipeline.vae_scale_factor, 2)

    def cells(self) -> int:
        return getattr(self.pipeline, "default_sample_size", 128)  # the pipeline's own call draws 1024 pixels

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        set_shifted_sigmas(scheduler, steps, (latents.shape[-2] // 2) * (latents.shape[-1] // 2), latents.device)
