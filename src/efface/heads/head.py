"""A gated sparse head: logits as sums of a few activations, each of which can be told (UCBM, TMLR 2025).

    s = (f − mean) / scale,   g = the k of relu(s − offset) that weigh most,   logits = W g + b

What is not above its mean contributes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efface.errors import UsageError

MARGIN = 0.9
"""Share of a concept's margin that its chosen activations hold."""


@dataclass(frozen=True)
class SparseHead:
    """Tells the concepts of one kind by a few activations; made by `efface.heads.fit.fit_head`."""

    concepts: tuple[str, ...]
    exclusive: bool
    """Whether a row shows exactly one concept (softmax) rather than any number of them (a sigmoid each)."""
    k: int | None
    """Most activations that a verdict counts; None counts all, without a gate: g = s."""
    units: Tensor
    """Indices of the activations that it reads (units,)."""
    mean: Tensor
    """Mean of each over the rows that it was fitted on (units,)."""
    scale: Tensor
    """Their standard deviation (units,)."""
    offset: Tensor
    """What a standardised activation must exceed (units,)."""
    rank: Tensor
    """How much each weighs where the k are chosen (units,)."""
    weight: Tensor
    """W (concepts units)."""
    bias: Tensor
    """b (concepts,)."""
    means: Tensor
    """Mean of g over the rows that show each concept (concepts units)."""

    def gated(self, activity: Tensor) -> Tensor:
        """g (rows units) of activations (rows all)."""
        standardised = (activity[:, self.units].double() - self.mean) / self.scale
        return standardised if self.k is None else gate(standardised, self.offset, self.rank, self.k)

    def logits(self, activity: Tensor) -> Tensor:
        """Logits (rows concepts) of activations (rows all), in float64."""
        return self.gated(activity) @ self.weight.T + self.bias

    def probabilities(self, activity: Tensor) -> Tensor:
        """Probability of every concept (rows concepts)."""
        logits = self.logits(activity)
        return logits.softmax(1) if self.exclusive else logits.sigmoid()

    def contributions(self, activity: Tensor, concept: int) -> Tensor:
        """W_cj g_j of one concept (rows units); their sum and b_c are its logit."""
        return self.gated(activity) * self.weight[concept]

    def scores(self, concept: str) -> Tensor:
        """max(W_cj, 0) · E[g_j | c] of each of its activations (units,): the part that it has in the concept's margin.

        Raises:
            UsageError: it does not know the concept.
        """
        if concept not in self.concepts:
            raise UsageError(
                f"the head does not know {concept!r}; expected one of {', '.join(self.concepts[:8])}…: fit it on pictures of it."
            )
        at = self.concepts.index(concept)
        return self.weight[at].clamp(min=0) * self.means[at]

    def choose(self, concept: str, margin: float = MARGIN) -> list[int]:
        """Indices of the fewest activations that hold this share of a concept's margin, the strongest first.

        Raises:
            UsageError: none speaks for the concept, or it is unknown.
        """
        scores = self.scores(concept)
        order = scores.argsort(descending=True, stable=True)
        sums = scores[order].cumsum(0)
        if not len(sums) or not float(sums[-1]) > 0:
            raise UsageError(
                f"no activation speaks for {concept!r}: fit the head on more pictures of it, or with a smaller penalty."
            )
        # Without the slack, rounding of the sums could ask for one more where they reach the share exactly.
        count = int((sums < (margin - 1e-12) * sums[-1]).sum()) + 1
        return self.units[order[:count]].tolist()


def gate(standardised: Tensor, offset: Tensor, rank: Tensor, k: int) -> Tensor:
    """g (rows units): activations less their offsets where positive, of each row the k with the largest rank · g."""
    gated = (standardised - offset).relu()
    if k >= gated.shape[1]:
        return gated
    chosen = (gated.detach() * rank).topk(k, dim=1).indices
    return gated * torch.zeros_like(gated).scatter_(1, chosen, 1.0)
