"""SAFREE: tokens that carry a concept are projected out of its subspace while the picture is coarse (Yoon et al., ICLR 2025,
arXiv 2410.12761)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from efface.erasures.guards.door import TextRule, Words, projector
from efface.erasures.guards.stream import Edit, Stream
from efface.errors import EffaceError
from efface.models.model import Model
from efface.models.precision import on_cpu

MOST = 10
"""Steps of 50 up to which the published window reaches."""


@dataclass(frozen=True)
class Safree(TextRule):
    """A token i is a trigger where without it the prompt is nearer to the concept than without the others: |(I − P_C) p_i| is at least
    1 + α times the mean of the others. Triggers e become (I − P_C) P_I e, on steps up to the share of the schedule that the
    prompt's own change says. P_C spans the concept's pooled phrases, P_I those of the prompt without each of its tokens.
    """

    phrases: tuple[str, ...]
    alpha: float
    """α."""
    slope: float
    """k of the sigmoid by which a prompt's change β decides on the window."""
    middle: float
    """t₀, ten times the β at which half the window is taken."""
    window: float
    """Share of the schedule of the whole window; published: 10 of 50 steps."""
    as_published: bool = False
    """Whether tokens are replaced by id 0 and not left out, and the window has one step more, as in the public code."""

    def require(self, model: Model) -> None:
        super().require(model)
        if self.as_published and not model.family.takes_tokens:
            raise EffaceError(
                "the public code of safree gives token 0 to CLIP encoders only: leave --as-published out."
            )

    def edit(self, words: Words, stream: Stream, ids: Sequence[int]) -> Edit | None:
        length = len(stream.content(len(ids)))
        ids = list(ids[:length])
        concept = self._concept(words, stream)
        without = self._vectors(words, stream, ids)
        matrix = self._matrix(words, stream, without)
        chosen = triggers(without - without @ concept, self.alpha)
        share = self.share_of(beta(self._attended(words, stream, ids), matrix))
        positions = torch.tensor([stream.content(length)[i] for i in chosen], dtype=torch.long)
        return Edit(positions=positions, matrix=matrix.T.float(), share=share)

    def change_of(self, words: Words, stream: Stream, ids: Sequence[int]) -> float:
        """β of a prompt of some content tokens."""
        ids = list(ids[: len(stream.content(len(ids)))])
        return beta(self._attended(words, stream, ids), self._matrix(words, stream, self._vectors(words, stream, ids)))

    def share_of(self, change: float) -> float:
        """The share of the schedule in which a prompt of some β is changed: t' = round(10 σ(2k(10β − t₀))) of ten parts."""
        exponent = max(-700.0, min(700.0, -2 * self.slope * (10 * change - self.middle)))
        last = round(MOST / (1 + math.exp(exponent)))
        return self.window * (last + self.as_published) / MOST

    def _concept(self, words: Words, stream: Stream) -> Tensor:
        """P_C (width width)."""
        return projector(words.phrases(stream, self.phrases).T)

    def _matrix(self, words: Words, stream: Stream, without: Tensor) -> Tensor:
        """(I − P_C) P_I (width width)."""
        inside = projector(without.T)
        return inside - self._concept(words, stream) @ inside

    def _vectors(self, words: Words, stream: Stream, ids: list[int]) -> Tensor:
        """p_i, pooled vectors (tokens width) of the prompt without each of its tokens, in float64."""
        if self.as_published:
            kept = [[*ids[:i], 0, *ids[i + 1 :]] for i in range(len(ids))]
        else:
            kept = [[*ids[:i], *ids[i + 1 :]] for i in range(len(ids))]
        states = words.without(stream, ids, kept)
        return on_cpu(torch.stack([stream.pooled(row, len(part)) for row, part in zip(states, kept, strict=True)]))

    def _attended(self, words: Words, stream: Stream, ids: list[int]) -> Tensor:
        """States of the prompt, its begin and end tokens included (tokens width), in float64."""
        (row,) = words.without(stream, ids, [ids])
        start = stream.span.start
        return on_cpu(row[start : stream.content(len(ids)).stop + stream.span.end])


def triggers(residuals: Tensor, alpha: float) -> list[int]:
    """The tokens without which a prompt is farthest from the concept; the only one of a prompt, of which its change β decides alone.

    Args:
        residuals: (I − P_C) p_i of every token (tokens width).
        alpha: by which share of the others' mean a token must exceed it.
    """
    d = residuals.norm(dim=1)
    if len(d) == 1:
        return [0]
    others = (d.sum() - d) / (len(d) - 1)
    return (d >= (1 + alpha) * others).nonzero().flatten().tolist()


def beta(states: Tensor, matrix: Tensor) -> float:
    """β = 1 − mean cosine of states (tokens width) and what a projection (width width) leaves of them."""
    left = states @ matrix.T
    return 1 - float(cosine_similarity(states, left, dim=1, eps=1e-12).mean())
