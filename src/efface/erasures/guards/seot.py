"""SuppressEOT, stage 1: what a concept's tokens and the padding after a prompt have in common is weakened (Li et al., ICLR 2024,
arXiv 2402.05375)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.erasures.guards.door import TextRule, Words, positions_of
from efface.erasures.guards.stream import Edit, Stream
from efface.models.precision import on_cpu


@dataclass(frozen=True)
class Seot(TextRule):
    """The rows of a concept's tokens and all from the end token on, X = U s Vᵀ, become U s exp(−α s / s_ref) Vᵀ.

    A prompt without the concept's tokens stays bit for bit. Where the denoiser does not attend to padding, X is the concept's rows.
    """

    phrases: tuple[str, ...]
    alpha: float
    """α; a negative one strengthens."""
    reference: float
    """s_ref, by which singular values are measured; published: 1."""
    start: float
    """Share of the schedule from which it acts; published: 10 of 50 steps."""

    def edit(self, words: Words, stream: Stream, ids: Sequence[int]) -> Edit | None:
        content = stream.content(len(ids))
        names = [stream.span.ids(name) for name in self.phrases]
        chosen = [content[i] for i in positions_of(ids[: len(content)], names)]
        if not chosen or self.alpha == 0:
            return None
        stop = stream.span.start + stream.span.length
        positions = [*chosen, *range(content.stop, stop)] if words.model.family.reads_padding else chosen
        (row,) = words.without(stream, ids, [list(ids)])
        mixing = weakening(on_cpu(row)[positions], self.alpha, self.reference)
        return Edit(positions=torch.tensor(positions), matrix=mixing.float(), share=self.start, mixing=True, late=True)


def weakening(rows: Tensor, alpha: float, reference: float) -> Tensor:
    """The matrix (rows rows) that multiplies the singular values s of rows (rows width) by exp(−α s / s_ref)."""
    u, s, _ = torch.linalg.svd(rows.double(), full_matrices=False)
    factors = torch.exp(-alpha * s / reference)
    return torch.eye(len(u), dtype=torch.float64) + (u * (factors - 1)) @ u.T
