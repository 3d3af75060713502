"""Prompts on the token axis of what the denoiser reads, and what a guard on text does to one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from efface.families.text import TokenSpan


class Stream(NamedTuple):
    """A stretch of the token axis, and a prompt in it."""

    span: TokenSpan
    number: int
    """Of the span among the family's."""

    @property
    def causal(self) -> bool:
        """Whether the end token sums the prompt up, as in CLIP; elsewhere the mean of the content does."""
        return self.span.begin == 1

    def content(self, count: int) -> range:
        """Positions of so many content tokens on the token axis."""
        start = self.span.start + self.span.begin
        return range(start, start + min(count, self.span.max_tokens))

    def pooled(self, states: Tensor, count: int) -> Tensor:
        """One vector (width,) of the states (tokens width) of a prompt of so many content tokens."""
        rows = self.content(count)
        if self.causal or not rows:
            return states[min(rows.stop, self.span.start + self.span.length - 1)]
        return states[rows.start : rows.stop].mean(0)


class Edit(NamedTuple):
    """What happens to the states of one prompt in one stream: rows become rows · matrix."""

    positions: Tensor
    """Of the rows on the token axis (rows,); none where the prompt stays."""
    matrix: Tensor
    """(width width), applied from the right; where it is `mixing`, (rows rows), from the left."""
    share: float
    """Share of the schedule up to which, or with `late` from which, it acts."""
    mixing: bool = False
    late: bool = False

    def acts(self, share: float) -> bool:
        """Whether it acts where so much of the schedule is over."""
        return len(self.positions) > 0 and (share >= self.share - 1e-6 if self.late else share < self.share - 1e-6)

    def apply(self, row: Tensor, scale: float) -> Tensor:
        """Edited states (tokens width) of a prompt; gradients pass."""
        at = self.positions.to(row.device)
        old = row[at].float()
        matrix = self.matrix.to(old)
        new = matrix @ old if self.mixing else old @ matrix
        return row.index_copy(0, at, (old + scale * (new - old)).to(row.dtype))
