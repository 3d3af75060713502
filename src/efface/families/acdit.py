"""ACDiT with text: pictures drawn block by block, each block with all steps (Hu et al., arXiv 2412.07720).

Timesteps count blocks and noise levels in one number (`acdit_schedule`), so that statistics, gates and clocks that know a timestep
know the block too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.errors import UsageError
from efface.families.acdit_network import Context
from efface.families.acdit_schedule import moment_of
from efface.families.base import Projection, Side
from efface.families.projections import cross_attentions
from efface.families.text import Text, TokenSpan
from efface.families.transformer import Transformer


@dataclass
class Remembered:
    """The clean blocks of the pictures that were predicted last, and what made them what they are."""

    context: Context
    tokens: Tensor
    """Clean tokens that are remembered (batch tokens values)."""
    weights: tuple[tuple[int, int], ...]
    """Where each weight lay, and how often it had been changed in place."""


class ACDiT(Transformer):
    """Text enters the noised stream only, by cross-attention; what is remembered of clean blocks depends on no text."""

    name = "acdit"
    pipelines = ("ACDiTPipeline",)
    denoisers = ("ACDiTTransformer2DModel",)
    timestep_argument = ("timestep", 2)
    takes_tokens = True
    kinds = ("textmap", "gated-map", "text-edit", "activation")

    def __init__(self, pipeline: Any):
        super().__init__(pipeline)
        self._remembered: Remembered | None = None

    @property
    def blocks(self) -> int:
        return self.network.blocks

    def token_spans(self) -> list[TokenSpan]:
        tokenizer, encoder = self.tokenizer_and_encoder("text_encoder")
        return [TokenSpan(tokenizer, encoder, tokenizer.model_max_length)]

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        return self.pipeline.encode_prompt(prompts), None, self.masks(prompts, self.token_spans())

    def encode(self, ids: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        _, encoder = self.tokenizer_and_encoder("text_encoder")
        return encoder(ids[0].to(self.device))[0], None

    def projections(self) -> list[Projection]:
        return cross_attentions("transformer", self.network)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        timestep = self.batch_timestep(timestep, latents)
        blocks = moment_of(timestep, self.network.blocks).block
        context = None
        if not torch.is_grad_enabled() and len(blocks.unique()) == 1:
            context = self._context(latents, int(blocks[0]))
        return self.pipeline.transformer(latents, text.states, timestep, context=context, return_dict=False)[0]

    def _context(self, latents: Tensor, block: int) -> Context:
        """What is remembered of the clean blocks of these pictures: it grows by those that it lacks, and is made anew for other
        pictures, or after a change of weights."""
        tokens = self.network.tokens_of(latents)[:, : block * self.network.block_tokens]
        weights = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.network.parameters())
        known = self._remembered
        same = known is not None and known.weights == weights and _begins_with(tokens, known.tokens)
        context = known.context if known is not None and same else Context()
        self._remembered = Remembered(context, tokens.clone(), weights)
        return context

    def latent_shape(self, side: Side) -> tuple[int, int, int]:
        channels, height, width = super().latent_shape(side)
        own = self.cells()
        if (height, width) != (own, own):
            pixels = own * self.pipeline.vae_scale_factor
            raise UsageError(
                f"the picture's size is {side}; this model draws {pixels} x {pixels} pixels: leave it out."
            )
        return channels, height, width


def _begins_with(tokens: Tensor, first: Tensor) -> bool:
    """Whether pictures' clean tokens (batch tokens values) go on after those that are remembered."""
    if tokens.shape[0] != first.shape[0] or tokens.shape[1] < first.shape[1] or tokens.device != first.device:
        return False
    return tokens.dtype == first.dtype and torch.equal(tokens[:, : first.shape[1]], first)
