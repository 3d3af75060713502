"""New tokens: embeddings that are trained, beside a table of tokens that stays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from efface.models.model import Model, Text
from efface.models.sampling import generator

SPREAD = 0.1
"""Size of the noise on the first embeddings, as a share of that of a word's own."""


class NewTokens:
    """A holder of embeddings (concepts · each, width), which act in the prompts that are written with them.

    Args:
        model: whose table they stand beside.
        words: one a concept; new tokens begin near it.
        each: tokens of a concept.
        seed: of the noise by which they differ at first.
    """

    def __init__(self, model: Model, words: Sequence[str], each: int, seed: int):
        self.table = model.token_table().detach().float()
        self.words = [model.token_spans()[0].ids(word) for word in words]
        self.each = each
        starts = torch.stack([self.table[ids].mean(0) for ids in self.words]).repeat_interleave(each, dim=0)
        noise = torch.randn(starts.shape, generator=generator("new tokens", seed)).to(starts)
        self.parameters = [(starts + SPREAD * starts.std(1, keepdim=True) * noise).requires_grad_()]

    def active(self, values: Sequence[Tensor] | None = None) -> Any:
        """A context in which nothing else happens."""
        return nullcontext()

    def delta(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The embeddings (tokens width), as `embeddings`."""
        return {"embeddings": (values or self.parameters)[0].detach().clone()}

    def text(self, model: Model, captions: Sequence[str], places: Sequence[Tensor]) -> Text:
        """Captions with each concept's word and its new tokens after them, with gradients to these.

        Args:
            model: the model.
            captions: one a picture; their ends are cut where they leave no room.
            places: of which places a picture has the tokens (concepts each), one a caption; of a concept in no place, not even the
                word is written.
        """
        ids, rows = zip(*(self._written(model, *pair) for pair in zip(captions, places, strict=True)), strict=True)
        longest = max(map(len, rows))
        embeddings = [torch.cat([part, part.new_zeros(longest - len(part), part.shape[1])]) for part in rows]
        return model.encode_tokens(ids, torch.stack(embeddings))

    def _written(self, model: Model, caption: str, places: Tensor) -> tuple[list[int], Tensor]:
        """The tokens of a prompt, with any id for the new ones, and all their embeddings (tokens width)."""
        span = model.token_spans()[0]
        ids: list[int] = []
        rows: list[Tensor] = [self.table[:0]]
        for number, (word, there) in enumerate(zip(self.words, places, strict=True)):
            if there.any():
                own = self.parameters[0][number * self.each : (number + 1) * self.each][there.to(self.table.device)]
                ids += [*word, *word[-1:] * len(own)]
                rows += [self.table[word], own]
        start = span.ids(caption)[: max(0, model.max_tokens - len(ids))]
        return [*start, *ids], torch.cat([self.table[start], *rows])
