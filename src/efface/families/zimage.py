"""Z-Image: a language model's states through a norm and one linear layer, then one joint sequence (arXiv 2511.22699)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from efface.families.layers import passed_through
from efface.families.networks import Door
from efface.families.schedule import set_shifted
from efface.families.text import Stream, Text
from efface.families.transformer import JointEntry

MARK = "@@prompt@@"


class ZImage(JointEntry):
    """The map acts between the norm and the linear layer; prompts have no padding, each its own length."""

    name = "z-image"
    denoisers = ("ZImageTransformer2DModel",)
    entry = "cap_embedder.1"
    reads_padding = False
    timestep = ("t", 1)

    def streams(self) -> list[Stream]:
        tokenizer, encoder = self.loaded("text_encoder")
        said = [{"role": "user", "content": MARK}]
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, enable_thinking=True)
        before, _, after = text.partition(MARK)
        begin, end = (len(tokenizer(part, add_special_tokens=False).input_ids) for part in (before, after))
        length = self.default("max_sequence_length") or 512
        return [Stream(tokenizer, encoder, length, begin=begin, end=end, before=before)]

    def encoded(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        found, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False,
            max_sequence_length=self.default("max_sequence_length") or 512,
        )  # fmt: skip
        states = pad_sequence(found, batch_first=True)
        lengths = torch.tensor([len(rows) for rows in found], device=states.device)
        return states, None, torch.arange(states.shape[1], device=states.device) < lengths[:, None]

    def doors(self) -> tuple[Door, ...]:
        return (Door(self.network.cap_embedder[0]),)

    def entering(self, text: Text) -> Tensor:
        return passed_through(self.network.cap_embedder[0], text.states)

    def to_level(self, given: Tensor) -> Tensor:
        return (1 - given.float()) * 1000  # the transformer counts from 0 (noise) to 1 (picture)

    def predict(self, latents: Tensor, level: Tensor, text: Text, guidance: float | None) -> Tensor:
        states = [rows[inside] for rows, inside in zip(text.states, text.mask.to(text.states.device), strict=True)]
        pictures = list(latents.to(self.network.dtype)[:, :, None].unbind())
        share = (1000 - self.at(level, latents)) / 1000
        output = self.pipeline.transformer(pictures, share, states, return_dict=False)[0]
        return -torch.stack([part.float() for part in output])[:, :, 0]

    def guides(self, guidance: float) -> bool:
        return guidance > 0

    def guided(self, unconditional: Tensor, conditional: Tensor, guidance: float) -> Tensor:
        return conditional + guidance * (conditional - unconditional)

    def latent_dtype(self, states: Tensor) -> torch.dtype:
        return torch.float32

    def latent_shape(self, side: int | None) -> tuple[int, int, int]:
        cells = self.cells() if side is None else side // self.pipeline.vae_scale_factor
        return self.network.in_channels, cells // 2 * 2, cells // 2 * 2

    def cells(self) -> int:
        return getattr(self.pipeline, "default_sample_size", 128)  # the pipeline's own call draws 1024 pixels

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        set_shifted(scheduler, steps, (latents.shape[-2] // 2) * (latents.shape[-1] // 2), latents.device)
